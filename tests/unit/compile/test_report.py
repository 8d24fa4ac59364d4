"""The report says who was asked and why not, once each, with the rows for which it holds."""

from quantmux.compile import FusionReport, Site
from quantmux.runtime.traced.legality import segments
from quantmux.runtime.traced.prologue import Prologue

SILU = Prologue("silu_mul", "bf16")


def site(parts, *, rows=(1, None), **changes):
    taken = all(part.is_fused for part in parts)
    fields = {
        "graph": 1,
        "pattern": "silu_mul",
        "node": "mul",
        "line": "model.py:7",
        "into": ("down",),
        "taken": taken,
        "rows": rows,
        "segments": tuple(parts),
    }
    return Site(**{**fields, **changes})


def asked(kit, program, **limits):
    kit.consumer("a/small", "fp8_channel_token", ("row_major",), m_max=64)
    kit.consumer("b/large", "fp8_channel_token", ("row_major",), m_min=65)
    kit.producer("a/quantize", "fp8_token", ("row_major",))
    kit.producer("a/fused", "fp8_token", ("row_major",), "silu_mul_quantize", **limits)
    return segments(SILU, [program(kit.context(), "fp8_channel_token")])


def lines(*sites, from_cache=0):
    text = str(FusionReport(1, from_cache, sites))
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_names_producers_once_for_neighbouring_ranges_of_rows(kit, program):
    said = lines(site(asked(kit, program)))
    assert said[0] == "1 graph, 1 site: 1 taken, 0 refused"
    assert said[1] == "taken"
    assert said[3].endswith("any M: a/fused")
    assert "M 1..64" not in " ".join(said)


def test_names_producers_that_differ_per_range_of_rows(kit, program):
    kit.producer("a/few", "fp8_token", ("row_major",), "silu_mul_quantize", m_max=64)
    said = lines(site(asked(kit, program)))
    assert said[3].endswith("M 1..64: a/few")
    assert said[4].endswith("M >= 65: a/fused")


def test_sites_that_say_the_same_are_one_row(kit, program):
    parts = asked(kit, program)
    said = lines(site(parts), site(parts, graph=2), site(parts, graph=2))
    assert [line.split()[:3] for line in said if "silu_mul" in line] == [["1", "2", "(2x)"]]


def test_says_once_what_holds_for_all_rows(kit, program):
    said = lines(site(asked(kit, program, in_dtypes=("fp16",), align_k=96)))
    found = [line for line in said if "a/fused" in line]
    assert len(found) == 1
    assert "in_dtype: needs fp16, found bf16" in " ".join(said)
    assert "M 1..64" not in " ".join(said)


def test_says_for_which_rows_it_does_not_hold(kit, program):
    said = " ".join(lines(site(asked(kit, program, m_max=64))))
    assert "M >= 65: a/fused: m_range" in said
    assert "M 1..64" not in said


def test_ranges_are_those_that_the_graph_can_have(kit, program):
    said = " ".join(lines(site(asked(kit, program), rows=(2, 100))))
    assert "M 2..100: a/fused" in said


def test_names_what_was_taken_in_the_place_of_another(kit, program):
    kit.consumer("a/inside", "fp8_channel_token", None, inside=True)
    kit.consumer("b/linear", "fp8_channel_token", ("row_major",))
    kit.producer("b/quantize", "fp8_token", ("row_major",))
    kit.producer("b/fused", "fp8_token", ("row_major",), "silu_mul_quantize")
    parts = segments(SILU, [program(kit.context(), "fp8_channel_token")])
    said = " ".join(lines(site(parts)))
    assert "b/linear instead of a/inside" in said
    (data,) = site(parts).to_dict()["segments"]
    assert data["consumers"][0]["instead_of"] == "a/inside"


def test_reasons_and_graphs_from_the_cache_are_told(kit, program):
    parts = asked(kit, program)
    said = " ".join(
        lines(site(parts, taken=False, reasons=("it is read elsewhere",)), from_cache=2)
    )
    assert "it is read elsewhere" in said
    assert "2 graphs came from inductor's cache" in said
    assert FusionReport(1, 2, ()).to_dict()["from_cache"] == 2
