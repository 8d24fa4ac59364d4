"""How many compilers run at once, by cores and by memory."""

from __future__ import annotations

import threading
import time

import pytest

from quantmux_cutlass.build import room
from quantmux_cutlass.build.nvcc_run import Stop
from quantmux_cutlass.build.room import Room, jobs_here


@pytest.mark.parametrize(
    ("gib", "available", "cores", "jobs"),
    [
        (6, 128, 16, 16),  # cores are what is short
        (6, 64, 16, 10),  # memory: (64 - 4) / 6
        (6, 10, 16, 1),
        (6, 3, 16, 1),  # one always goes
        (0.4, 10, 16, 15),
        (6, 1000, 2, 2),
    ],
)
def test_jobs_are_limited_by_cores_and_by_memory(gib, available, cores, jobs):
    assert jobs_here(gib, available=available, cores=cores) == jobs


def most_at_once(tmp_path, *, gib, count, jobs, expected):
    """Run so many holders of room, and give how many held it at the same time."""
    place, stop, lock, full = Room(), Stop(), threading.Lock(), threading.Event()
    now, most = 0, 0

    def hold():
        nonlocal now, most
        with place.take(gib, tmp_path, jobs=jobs, stop=stop):
            with lock:
                now += 1
                most = max(most, now)
                if now == expected:
                    full.set()
            full.wait(20)  # until as many hold it as should
            time.sleep(0.3)  # and one too many would have come
            with lock:
                now -= 1

    threads = [threading.Thread(target=hold) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return most


@pytest.mark.parametrize(
    ("available", "cores", "gib", "jobs", "most"),
    [
        (22.5, 16, 6.0, None, 3),  # 18.5 GiB to spend
        (22.5, 16, 6.0, 6, 3),  # asked for more than there is room for
        (5.0, 16, 6.0, None, 1),
        (500.0, 2, 0.5, None, 2),
        (500.0, 16, 0.5, 3, 3),
        (500.0, 16, 6.0, 2, 2),
    ],
)
def test_no_more_compilers_at_once_than_there_is_room_for(
    monkeypatch, tmp_path, available, cores, gib, jobs, most
):
    monkeypatch.setattr(room, "available_gib", lambda: available)
    monkeypatch.setattr(room, "cores_here", lambda: cores)
    found = most_at_once(tmp_path, gib=gib, count=most + 1, jobs=jobs, expected=most)
    assert found == most


def test_processes_of_one_host_share_the_slots_for_heavy_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "available_gib", lambda: 500.0)
    monkeypatch.setattr(room, "cores_here", lambda: 1)
    one, other = Room(), Room()  # as in two processes: they know nothing of each other
    stop, entered = Stop(), threading.Event()

    def second():
        with other.take(6.0, tmp_path, stop=stop):
            entered.set()

    thread = threading.Thread(target=second)
    with one.take(6.0, tmp_path, stop=stop):
        thread.start()
        assert not entered.wait(0.6)
    thread.join(5)
    assert entered.is_set()


def test_who_waits_for_room_can_be_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "available_gib", lambda: 5.0)
    place, stop, through = Room(), Stop(), threading.Event()

    def second():
        with place.take(6.0, tmp_path, stop=stop):
            through.set()

    thread = threading.Thread(target=second)
    with place.take(6.0, tmp_path, stop=Stop()):
        thread.start()
        assert not through.wait(0.3)
        stop()
        assert through.wait(5)
    thread.join(5)


def test_the_limit_of_the_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda _pid: set(range(64)))
    assert room.cores_here() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert room.cores_here() == 64
    (tmp_path / "memory.max").write_text(f"{8 * room.GIB}\n")
    (tmp_path / "memory.current").write_text(f"{7 * room.GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {room.GIB}\nactive_file 0\n")
    monkeypatch.setattr(room, "_meminfo", lambda: 100.0 * room.GIB)
    assert room.available_gib() == 2.0
