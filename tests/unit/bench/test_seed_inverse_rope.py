"""The inverse RoPE seed: stalls in fresh processes, steady times here, and what is said of them."""

# ruff: noqa: ARG001 - the arguments are a call's

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch

from quantmux.bench.seeds import inverse_rope, inverse_rope_worker
from quantmux.bench.seeds.inverse_rope import InverseRope
from quantmux.bench.seeds.inverse_rope_process import WORKER, Cold, Order, run_cold
from quantmux.bench.seeds.inverse_rope_steady import steady_remarks
from quantmux.bench.seeds.inverse_rope_ttft import Stalls, model_lines, modelled_ms, needed_s
from quantmux.bench.seeds.inverse_rope_ways import reference_call, rope_config
from quantmux.bench.seeds.rows import SeedRow
from quantmux.bench.seeds.stage import stage_for
from quantmux.capability.detect import HERE_CPU
from quantmux.runtime.context import default_context


@pytest.fixture
def stage():
    return stage_for(default_context(), HERE_CPU)


def order(way="before", tokens=(1, 2), groups=2):
    return Order(way, 4, groups, 256, tokens, "cpu")


def test_fresh_processes_answer_in_the_order_in_which_they_were_asked():
    pytest.importorskip("triton")
    before, ours = run_cold([order(), order("ours", tokens=(3,))])
    assert (before.error, ours.error) == ("", "")
    assert before.order.way == "before"
    assert list(before.first_s) == [1, 2]
    assert list(ours.first_s) == [3]
    assert min(before.first_s.values()) > 0
    assert ours.before_s > 0


def test_a_process_that_fails_gives_its_last_line_and_the_others_go_on():
    pytest.importorskip("triton")
    wrong, right = run_cold([order(groups=3), order(tokens=(1,))])
    assert wrong.error.startswith("exit code 1: ")
    assert wrong.variants == ()
    assert right.error == ""


def test_a_process_whose_parent_is_gone_measures_nothing(tmp_path):
    pytest.importorskip("triton")
    asked, answer = tmp_path / "order.json", tmp_path / "answer.json"
    asked.write_text(json.dumps(asdict(order())), encoding="utf-8")
    for given, is_answered in (("", False), ("go\n", True)):
        done = subprocess.run(
            [sys.executable, "-m", WORKER, str(asked), str(answer)],
            input=given,
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr[-500:]
        assert answer.exists() is is_answered


def test_a_stall_is_what_the_first_call_takes_beyond_a_later_one(monkeypatch):
    @contextmanager
    def compiled():
        yield names

    names = []
    monkeypatch.setattr(inverse_rope_worker, "compilations", compiled)
    config, seen = rope_config(4, 2, 256), set()

    def call(o, positions, cache, out):
        kind = o.shape[0] % 4 == 0
        time.sleep(0.002)
        if kind not in seen:
            seen.add(kind)
            names.append(f"aligned={kind}")
            time.sleep(0.05)

    found = inverse_rope_worker.measure(call, config, (1, 2, 4, 8), torch.device("cpu"))
    assert found["variants"] == ["aligned=False", "aligned=True"]
    stalls = found["stall_s"]
    assert min(stalls[1], stalls[4]) > 0.045
    assert max(stalls[2], stalls[8]) < 0.04
    assert min(found["first_s"].values()) >= 0.002
    cold = Cold(order(tokens=(1, 2, 4, 8)), stall_s=stalls)
    assert set(cold.stalled) >= {1, 4}
    assert cold.total_s == pytest.approx(sum(stalls.values()))


def test_the_model_of_ttft_shares_a_stall_among_the_requests():
    assert modelled_ms(0.4, 8) == pytest.approx(400 * 8 / 480)
    assert modelled_ms(needed_s(), 8) == pytest.approx(32)
    whole, later = Stalls(1.41, 1.02, 1.23, 0.001), Stalls(0.60, 0.30, 0.003, 0.0)
    what, seed, after, ours = model_lines(whole, later)
    assert what.startswith("A model, not a measurement")
    assert "removes 0.39 s of 1.41 s: 6.5 ms of mean TTFT, where the report saw 32 ms" in seed
    assert "1.9 s of stall" in seed
    assert "removes 0.30 s of 0.60 s, 5.0 ms of mean TTFT; ours 9.9 ms, and 10.0 ms after" in after
    assert "ours is 3.0 ms. After warmup() it is 23.5 ms, which leaves 1.0 ms" in ours
    assert "but 13.5 ms of that is the first T" in ours


def cold(given, stalls, variants, error=""):
    return Cold(
        given,
        variants=("one_head",) * variants,
        first_s=dict(stalls),
        stall_s=dict(stalls),
        error=error,
    )


def run_with(monkeypatch, stage, answer):
    monkeypatch.setattr(inverse_rope, "run_cold", lambda orders: (answer(o) for o in orders))
    told = []
    rows = InverseRope().run(stage, told.append)
    assert len(told) == InverseRope().steps(stage)
    return rows


def test_first_calls_have_a_row_of_their_own_and_every_steady_way_agrees(monkeypatch, stage):
    rows = run_with(monkeypatch, stage, lambda o: cold(o, {1: 0.9, 2: 0.3, 7: 0.0}, 2))
    first = [row for row in rows if row.method == "process"]
    assert [row.kind for row in first] == ["before", "seed", "ours"]
    assert all(row.us is None and row.is_main and row.status == "ok" for row in first)
    extra = first[0].extra
    assert extra["variants"] == 2
    assert extra["stall_ms"] == pytest.approx(1200)
    assert extra["later_ms"] == pytest.approx(300)
    assert extra["stalled_tokens"] == [1, 2]
    steady = [row for row in rows if row.method != "process"]
    assert {row.status for row in steady} == {"ok"}
    assert {row.facts["m"] for row in steady} == {1, 2, 7}
    assert {row.kind for row in steady} == {"before", "seed", "ours", "aa"}


def test_a_process_that_fails_is_a_failed_row(monkeypatch, stage):
    rows = run_with(monkeypatch, stage, lambda o: cold(o, {}, 0, "no compiler"))
    failed = [row for row in rows if row.status == "failed"]
    assert [row.reason for row in failed] == ["no compiler"] * 3


def test_a_way_that_writes_something_else_is_not_timed(monkeypatch, stage):
    def wrong(config):
        right = reference_call(config)

        def call(o, positions, cache, out):
            right(o, positions, cache, out)
            out.scales.mul_(2)

        return call

    monkeypatch.setattr(inverse_rope, "reference_call", wrong)
    rows = run_with(monkeypatch, stage, lambda o: cold(o, {1: 0.1}, 1))
    failed = {row.kind for row in rows if row.status == "failed"}
    assert failed == {"before", "seed"}


def steady(kind, m, heads=64, **values):
    return SeedRow("inverse_rope", f"H={heads} T={m}", kind, kind, facts={"m": m, "heads": heads},
                   is_main=True, us=1.0, **values)  # fmt: skip


def test_large_token_counts_are_spoken_of_apart():
    rows = [
        steady("seed", 512, before_ratio=1.01),
        steady("seed", 1024, before_ratio=0.99),
        steady("seed", 16, before_ratio=3.0),  # few tokens: the report does not speak of them
        steady("ours", 1024, ratio=2.0, pct_of_ceiling=80.0),
        steady("ours", 4096, heads=8, ratio=9.0, pct_of_ceiling=10.0),  # 32768 heads only
    ]
    pinned, ours = steady_remarks(rows)
    assert "0.990 to 1.010 (before/seed, 2 of the cases" in pinned
    assert "2.00 times as fast as the seed, at 80 % of the copy rate (1 of the cases)" in ours
    assert steady_remarks([]) == ()
