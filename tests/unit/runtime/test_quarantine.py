from concurrent.futures import ThreadPoolExecutor

from quantmux.runtime.quarantine import Quarantine, default_quarantine


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Memory:
    def __init__(self):
        self.kept = ()

    def read(self):
        return self.kept

    def write(self, entries):
        self.kept = tuple(entries)


def test_a_kernel_is_kept_away_from_one_device_only():
    q = Quarantine()
    q.add("a/x", "h200", "nvcc is missing")
    ((name, rejection),) = q.rejections("h200").items()
    assert name == "a/x"
    assert rejection.code == "quarantined"
    assert rejection.actual == "nvcc is missing"
    assert q.rejections("b200") == {}
    assert q.find("a/x", "h200").reason == "nvcc is missing"
    assert q.find("a/x", "b200") is None


def test_a_repaired_kernel_with_another_digest_is_free():
    q = Quarantine()
    q.add("a/x", "h200", "bad", digest="old")
    assert q.rejections("h200", {"a/x": "new"}.get) == {}
    assert list(q.rejections("h200", {"a/x": "old"}.get)) == ["a/x"]
    assert q.find("a/x", "h200", "new") is None


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
    Quarantine(store).add("a/x", "h200", "bad", digest="d")
    again = Quarantine(store)
    assert again.rejections("h200")["a/x"].actual == "bad"
    again.lift("a/x")
    assert store.kept == ()


def test_many_threads_add_at_once():
    q = Quarantine()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: q.add(f"a/k{i}", "h200", "bad"), range(200)))
    assert len(q.entries()) == 200
    assert len(q.rejections("h200")) == 200


def test_the_process_has_one_quarantine():
    assert default_quarantine() is default_quarantine()
