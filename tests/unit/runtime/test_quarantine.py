from concurrent.futures import ThreadPoolExecutor

import pytest

from quantmux.runtime.quarantine import LOOK_S, Quarantine
from quantmux.runtime.quarantine_file import default_quarantine
from quantmux.runtime.quarantine_ground import Ground


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Memory:
    """A store, as two processes see it; ``works`` says whether it can be written."""

    def __init__(self):
        self.kept, self.works, self.writes = {}, True, 0

    def read(self):
        return tuple(self.kept.values())

    def change(self, put, drop):
        if self.works:
            self.writes += 1
            for key in drop:
                self.kept.pop(key, None)
            self.kept.update({e.key: e for e in put})
        return self.works

    def stamp(self):
        return self.writes


def test_a_kernel_is_kept_away_from_one_device_only():
    q = Quarantine()
    q.add("a/x", "h200", "nvcc is missing")
    ((name, rejection),) = q.rejections("h200").items()
    assert name == "a/x"
    assert rejection.code == "quarantined"
    assert rejection.actual.startswith("nvcc is missing (since 20")
    assert rejection.hint == "quantmux quarantine clear a/x"
    assert q.rejections("b200") == {}
    assert q.find("a/x", "h200").reason == "nvcc is missing"
    assert q.find("a/x", "b200") is None


OLD = Ground("old", "580", (("torch", "2.11.0"),))


@pytest.mark.parametrize(
    "here",
    [
        Ground("new", "580", OLD.versions),
        Ground("old", "590", OLD.versions),
        Ground("old", "580", (("torch", "2.12.0"),)),
        Ground("old", "580", (*OLD.versions, ("triton", "3.6"))),
    ],
)
def test_a_kernel_on_another_ground_is_free(here):
    q = Quarantine()
    q.add("a/x", "h200", "bad", ground=OLD)
    assert q.rejections("h200", {"a/x": here}.get) == {}
    assert list(q.rejections("h200", {"a/x": OLD}.get)) == ["a/x"]
    assert q.find("a/x", "h200", here) is None
    assert q.find("a/x", "h200", OLD).reason == "bad"
    assert OLD.change(here)


def test_an_entry_expires_and_the_version_tells():
    clock = Clock()
    q = Quarantine(clock=clock)
    before = q.version
    q.add("a/x", "h200", "bad", expires_in=10)
    added = q.version
    assert added != before
    clock.now = 109.9
    assert q.version == added
    assert q.rejections("h200")
    clock.now = 110.0
    assert q.version != added
    assert q.rejections("h200") == {}


def test_lift_and_clear_let_kernels_be_tried_again():
    q = Quarantine()
    q.add("a/x", "h200", "bad")
    q.add("a/x", "b200", "bad")
    q.add("a/y", "h200", "bad")
    assert [e.device for e in q.lift("a/x", "h200")] == ["h200"]
    assert set(q.rejections("b200")) == {"a/x"}
    version = q.version
    q.clear()
    assert q.entries() == ()
    assert q.version != version
    assert q.lift("a/x") == ()


def test_a_store_keeps_entries_for_the_next_process():
    store = Memory()
    Quarantine(store).add("a/x", "h200", "bad", ground=OLD)
    again = Quarantine(store)
    assert again.find("a/x", "h200", OLD).reason == "bad"
    again.lift("a/x")
    assert store.kept == {}


def test_what_another_process_adds_and_lifts_is_seen_a_second_later():
    store, ticks = Memory(), Clock()
    here, there = Quarantine(store, ticks=ticks), Quarantine(store)
    before = here.version
    there.add("a/x", "h200", "bad")
    assert here.version == before
    assert here.rejections("h200") == {}
    ticks.now += LOOK_S
    assert here.version != before
    assert list(here.rejections("h200")) == ["a/x"]
    there.lift("a/x")
    ticks.now += LOOK_S
    assert here.version
    assert here.rejections("h200") == {}


def test_both_processes_keep_what_the_other_has_added():
    store = Memory()
    here, there = Quarantine(store), Quarantine(store)
    here.add("a/x", "h200", "bad")
    there.add("a/y", "h200", "bad")
    assert {e.kernel for e in Quarantine(store).entries()} == {"a/x", "a/y"}


def test_what_cannot_be_kept_holds_in_memory_until_it_can():
    store, ticks = Memory(), Clock()
    q = Quarantine(store, ticks=ticks)
    store.works = False
    q.add("a/x", "h200", "bad")
    store.writes += 1
    ticks.now += LOOK_S
    assert q.version
    assert list(q.rejections("h200")) == ["a/x"]
    store.works = True
    q.add("a/y", "h200", "bad")
    assert {e.kernel for e in store.kept.values()} == {"a/x", "a/y"}


def test_what_was_lifted_stays_lifted_though_it_cannot_be_written():
    store, ticks = Memory(), Clock()
    q = Quarantine(store, ticks=ticks)
    q.add("a/x", "h200", "bad")
    store.works = False
    assert [e.kernel for e in q.lift("a/x")] == ["a/x"]
    store.writes += 1
    ticks.now += LOOK_S
    assert q.version
    assert q.rejections("h200") == {}
    assert q.add("a/x", "h200", "again")
    assert list(q.rejections("h200")) == ["a/x"]


def test_many_threads_add_at_once():
    q = Quarantine()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: q.add(f"a/k{i}", "h200", "bad"), range(200)))
    assert len(q.entries()) == 200
    assert len(q.rejections("h200")) == 200


def test_the_process_has_one_quarantine():
    assert default_quarantine() is default_quarantine()
