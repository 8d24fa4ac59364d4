"""prepare: weights are prepared without being touched, to the same bits every time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import safetensors.torch
import torch

from quantmux.ops.layouts import as_bits
from quantmux.ops.quantized import LinearWeights
from quantmux.ops.spec import Call
from quantmux.registry.protocol import PreparedWeights
from quantmux.testing.answers import agrees, compared, fails, logical_bytes, served
from quantmux.testing.cell import Cell, Outcome, Verdict
from quantmux.testing.derive import derived, labelled, plain_cases
from quantmux.testing.program_state import ProgramState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from quantmux.config import LinearConfig
    from quantmux.ops.spec import Case
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.testing.derive import Derived
    from quantmux.testing.stage import Stage

ALWAYS: Final = False


def cells(spec: KernelSpec, stage: Stage, small_only: bool) -> Iterator[Cell]:
    """Give, per scheme, one cell of an aligned shape and the first of an odd one."""
    del small_only
    if spec.op != "linear":
        return
    plain = plain_cases(spec, stage, (8,))
    odd: dict[str, Derived] = {}
    shapes = {(c.config.n, c.config.k) for c, _ in plain}
    for case, detail in derived(spec, stage):
        config: LinearConfig = case.config
        if (config.n, config.k) not in shapes and stage.verdict(spec, config).is_eligible:
            odd.setdefault(f"{config.scheme.name} {config.bias}", (case, detail))
    for label, case, detail in labelled([*plain, *odd.values()]):
        yield Cell(spec.id, "prepare", label, case, tuple(detail.items()))


def run(cell: Cell, stage: Stage) -> Outcome:
    """Prepare twice, then from a reloaded checkpoint, and undo it."""
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    config: LinearConfig = case.config
    kernel = stage.registry.load_kernel(spec.id)
    weights: LinearWeights = stage.trial(spec, case, **dict(cell.detail)).call.args[1]
    before = _bits(weights.named())
    first = kernel.prepare(weights, config, stage.device)
    problem = _form_problem(first, weights, spec, config) or _same(
        "the checkpoint's tensors were changed", before, _bits(weights.named())
    )
    if problem:
        return fails(problem, "prepare")
    form = _described(first)
    again = kernel.prepare(weights, config, stage.device)
    reloaded = kernel.prepare(_reloaded(weights, stage), config, stage.device)
    problem = (
        _same("a second preparation differs", form, _described(again))
        or _same("a second preparation changed the first", form, _described(first))
        or _same("a preparation after save and load differs", form, _described(reloaded))
        or _restore_problem(first, before)
    )
    if problem:
        return fails(problem, "prepare")
    run_, x = kernel.bind(config, first, stage.device), stage.trial(spec, case).inputs[0]
    run_(x)
    problem = _same("a call changed the prepared weights", form, _described(first)) or _same(
        "a call changed the checkpoint's tensors", before, _bits(weights.named())
    )
    if problem:
        return fails(problem, "mutates")
    outcome = _other_layer(cell, stage, run_, first)
    return outcome if outcome.verdict is Verdict.FAILS else _foreign_forms(cell, stage, outcome)


def _foreign_forms(cell: Cell, stage: Stage, outcome: Outcome) -> Outcome:
    """Call with weights that another kernel of the same ``weight_layout`` has prepared.

    A layer prepares a layout once, by whichever of them is first, and all of them read it.
    """
    asked = served(cell, stage)
    if isinstance(asked, Outcome):
        return asked
    spec, case = asked
    trial = stage.trial(spec, case, **dict(cell.detail))
    weights, kernel = trial.call.args[1], stage.registry.load_kernel(spec.id)
    for whose, form in _forms(spec, case, weights, stage):
        run_ = kernel.bind(case.config, form, stage.device)
        found = replace(trial, run=run_, prepared=form)
        other = compared(found, found())
        if other.verdict is Verdict.FAILS:
            layout = form.weight_layout
            return fails(f"on the {layout} weights of {whose}: {other.reason}", "prepare")
    return outcome


def _forms(
    spec: KernelSpec, case: Case, weights: LinearWeights, stage: Stage
) -> Iterator[tuple[str, PreparedWeights]]:
    config = case.config
    layout = spec.capability.weight_layout_for(config.n, config.k)
    if layout == "canonical":
        named = dict(weights.named())
        yield "the checkpoint", PreparedWeights(named, "canonical", config.n, config.k)
        return
    for other in stage.registry.kernels:
        is_kin = other.op == spec.op and other.backend == spec.backend and other.id != spec.id
        if not is_kin or other.capability.weight_layout_for(config.n, config.k) != layout:
            continue
        if stage.blocked(other) is None and not stage.refusals(other, config, case.m):
            before = ProgramState.now(stage.home)
            form = stage.registry.load_kernel(other.id).prepare(weights, config, stage.device)
            before.restore()  # what it changed is asked of itself
            yield other.id, form


def _other_layer(
    cell: Cell, stage: Stage, run_: Callable[..., Any], first: PreparedWeights
) -> Outcome:
    """Prepare and bind another layer of the same shape, then call both.

    What a kernel keeps by shape, or on itself, would serve one of them wrongly.
    """
    spec, case = stage.spec(cell.kernel), cell.case
    if case is None:
        raise ValueError(f"{cell.id} has no case")
    trial = stage.trial(spec, case, **dict(cell.detail))
    x, weights = trial.call.args
    bits = as_bits(weights.data)
    # the second part of a fused weight, as checkpoints share their storage
    data = torch.cat((bits, bits.roll(1, dims=0)))[len(bits) :].view(weights.data.dtype)
    other = replace(weights, data=data)
    kernel = stage.registry.load_kernel(spec.id)
    prepared = kernel.prepare(other, case.config, stage.device)
    others = kernel.bind(case.config, prepared, stage.device)
    second = replace(trial, call=Call((x, other)), run=others, prepared=prepared)
    own = replace(trial, run=run_, prepared=first)
    for whose, layer in (("another layer of the same shape", second), ("the first layer", own)):
        outcome = compared(layer, layer())
        if outcome.verdict is Verdict.FAILS:
            return fails(f"{whose}, two being bound: {outcome.reason}", "prepare")
    return agrees(outcome.error)


def _form_problem(
    prepared: PreparedWeights, weights: LinearWeights, spec: KernelSpec, config: LinearConfig
) -> str:
    """Say what the prepared weights say of themselves that is not so."""
    for name, have, need in (
        (
            "weight_layout",
            prepared.weight_layout,
            spec.capability.weight_layout_for(config.n, config.k),
        ),
        ("n", prepared.n, config.n),
        ("k", prepared.k, config.k),
    ):
        if have != need:
            return f"prepared {name}: needs {need}, found {have}"
    if prepared.weight_layout != "canonical":
        return ""
    given = _bits(weights.named())
    found = _bits({name: t for name, t in prepared.tensors.items() if name in given})
    return _same("canonical weights differ from the checkpoint's", given, found)


def _restore_problem(prepared: PreparedWeights, before: Mapping[str, Any]) -> str:
    """Say how restored weights differ; biases and given scales need not be among them."""
    if prepared.restore is None:
        return ""
    restored = _bits(prepared.restore().named())
    for name in ("data", "scales"):
        if name not in restored:
            return f"restore() gives no {name}"
    return _same("restore() differs", {k: before.get(k) for k in restored}, restored)


def _reloaded(weights: LinearWeights, stage: Stage) -> LinearWeights:
    """Give the weights as a checkpoint file gives them back."""
    named = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.named().items()}
    loaded = safetensors.torch.load(safetensors.torch.save(named))
    return LinearWeights(**loaded).to(stage.home)


def _described(prepared: PreparedWeights) -> dict[str, Any]:
    found: dict[str, Any] = _bits(prepared.tensors)
    for name, tensor in prepared.tensors.items():
        found[f"strides of {name}"] = tensor.stride()
    return {**found, "facts": dict(prepared.facts)}


def _bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: (tuple(t.shape), str(t.dtype), logical_bytes(t)) for name, t in tensors.items()}


def _same(what: str, want: Mapping[str, Any], have: Mapping[str, Any]) -> str:
    if want.keys() != have.keys():
        return f"{what}: needs {sorted(want)}, found {sorted(have)}"
    for name, value in want.items():
        other = have[name]
        if not isinstance(value, tuple) or len(value) != 3 or not hasattr(value[2], "equal"):
            if value != other:
                return f"{what}: {name} needs {value}, found {other}"
        elif value[:2] != other[:2] or not value[2].equal(other[2]):
            return f"{what}: {name}"
    return ""
