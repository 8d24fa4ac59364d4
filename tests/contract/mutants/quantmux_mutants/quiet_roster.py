"""Mutants whose fault one call on fresh memory does not show, as data."""

from __future__ import annotations

from typing import Final

from quantmux_mutants.model import Mutant


def _quiet(twin: str, name: str, fault: str, check: str = "numbers") -> Mutant:
    return Mutant(twin, name, fault, check, module="quiet_faults")


QUIET: Final = (
    _quiet("group", "second_call", "wrong from the second call on"),
    _quiet("group", "ring", "gives one of four buffers by turns", "memory"),
    _quiet("group", "remembered", "knows x by its address, filled again or not", "memory"),
    _quiet("group", "hoarder", "keeps every input for ever", "memory"),
    _quiet("group", "only_over_poison", "writes scales over NaN and zeros only", "memory"),
    _quiet("group", "one_workspace", "works in memory kept by shape", "threads"),
    _quiet("group", "pads_in_place", "zeroes what lies between the rows of x", "strides"),
    _quiet("group", "transpose_ignored", "takes columns of x to lie side by side", "strides"),
    _quiet("group", "spoiled_left", "a block that holds NaN keeps the scale it had"),
    _quiet("group", "plus_zero", "a zero has no sign"),
    _quiet("group", "reseeds", "seeds the program's generator", "surroundings"),
    _quiet(
        "group", "default_device", "a constant on the device the program prefers", "surroundings"
    ),
    _quiet("rows", "first_rows", "the scale of a tensor comes from its first 256 rows"),
    _quiet("rows", "static_reciprocal", "x * RN(1 / s) where the scale is given"),
    _quiet("rope", "positions_contiguous", "takes positions to lie side by side", "strides"),
    _quiet("relayout", "shared_data", "gives the codes of its input on", "memory"),
    _quiet("channel", "deep_columns", "columns of K beyond 4096 are lost"),
    _quiet("channel", "odd_splits", "of an odd number of parts of K the last is lost"),
    _quiet("channel", "many_outputs", "outputs beyond 8192 are zero"),
    _quiet("channel", "half_is_brain", "reads a bias of fp16 as bf16"),
    _quiet("channel", "adds_to_out", "adds to what `out` holds, if that is finite", "memory"),
    _quiet("channel", "one_accumulator", "keeps its products by shape", "threads"),
    _quiet("channel", "flushes", "turns subnormal numbers off for everybody", "surroundings"),
    _quiet("channel", "other_form", "prepares otherwise than its twin, under one name", "prepare"),
    _quiet("block", "not_canonical", "calls weights canonical that it has changed", "prepare"),
    _quiet("block", "grid_of_three", "reads a square grid of three blocks transposed"),
    _quiet("weight_only", "inf_saturates", "an Inf in x is the largest number there is"),
    _quiet("nvfp4_linear", "zero_by_zero", "divides by the scales of weights, of which some are 0"),
)
