"""The covering choice covers every pair, in few rows, the same in every process."""

from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from quantmux.testing.pairwise import pairwise

SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def pairs_of(row):
    return {(a, row[a], b, row[b]) for a, b in combinations(sorted(row), 2)}


@given(SIZES)
def test_every_pair_of_values_occurs(sizes):
    dimensions = {f"d{i}": tuple(range(size)) for i, size in enumerate(sizes)}
    covered = set().union(*(pairs_of(row) for row in pairwise(dimensions)))
    wanted = {
        (a, x, b, y)
        for a, b in combinations(sorted(dimensions), 2)
        for x, y in product(dimensions[a], dimensions[b])
    }
    assert covered == wanted


def test_far_fewer_rows_than_the_product():
    dimensions = {name: tuple(range(6)) for name in "abcdef"}
    assert 36 <= len(pairwise(dimensions)) <= 60 < 6**6


def test_a_dimension_without_values_is_left_out():
    assert pairwise({"a": (1, 2), "b": ()}) == ({"a": 1}, {"a": 2})


def test_gives_the_same_rows_again():
    dimensions = {"a": tuple("xyz"), "b": (1, 2, 3, 4), "c": (None, "")}
    assert pairwise(dimensions) == pairwise(dict(dimensions))
