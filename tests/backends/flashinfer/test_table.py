"""The whole table, op x layout x architecture: ours, and what recorded releases say of it.

``python tests/backends/flashinfer/test_table.py`` prints what `capability_table.txt` must hold.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from quantmux._version import __version__
from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile
from quantmux.cli._matrix_rows import matrix_rows, questions
from quantmux.registry import BackendInfo, Registry, hookimpl
from quantmux.runtime.context import Context
from quantmux.runtime.quarantine import Quarantine
from quantmux_flashinfer import catalog
from quantmux_flashinfer.jit.modules import MODULES
from quantmux_flashinfer.surface import compare, records
from quantmux_flashinfer.surface.compare import TESTED
from quantmux_torch import plugin as torch_plugin
from quantmux_triton import plugin as triton_plugin

OFFERS = catalog.offers()
IDS = [offer.spec.id for offer in OFFERS]
TABLE = Path(__file__).with_name("capability_table.txt")

REAL = (75, 80, 86, 87, 88, 89, 90, 100, 103, 107, 110, 120, 121)
"""Compute capabilities of GPUs that exist or are announced; 101 was 110's first number."""

SHOWN = (80, 89, 90, 100, 103, 120, 121)
HEADS = tuple(f"sm{sm}" for sm in SHOWN)


def arch(sm):
    return Arch.parse(str(sm))


def ours(offer):
    return [sm for sm in REAL if any(arch(sm) in a for a in offer.spec.capability.arch)]


def listed(version, entry):
    """Give what the imported release answered for an entry; None where it has no list."""
    answers = records.recorded(version).answers.get(entry.function)
    if answers is None or (not answers.backends and answers.archs is None):
        return None
    if answers.backends:
        return answers.backends.get(entry.backend or "", ())
    return answers.archs


def test_there_is_something_to_look_at():
    assert len(OFFERS) >= 15
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_our_table_is_never_wider_than_the_tested_release_s_own_answers(offer):
    answered = listed(TESTED, offer.entry)
    assert offer.entry.is_gated is (answered is not None)
    assert ours(offer)
    if answered is not None:
        assert set(ours(offer)) <= set(answered)


@pytest.mark.parametrize("version", records.versions())
@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_what_a_release_does_not_answer_for_is_refused_with_it(offer, version):
    found = records.recorded(version)
    answered = listed(version, offer.entry)
    there = found.answers.get(offer.entry.function)
    for sm in records.ASKED:
        if compare.why_not(found.surface, offer.entry, arch(sm)) is not None:
            continue
        assert there is not None
        assert answered is None or sm in answered
        assert answered is not None or not offer.entry.is_gated
        given = {*offer.entry.parameters, *(["backend"] if offer.entry.backend else [])}
        words = {word.lstrip("~*").rstrip("="): word for word in there.parameters}
        gate = {"skip_check"} if answered is not None else set()
        assert given <= words.keys() | gate
        assert {n for n, w in words.items() if not w.endswith("=") and "*" not in w} <= given


@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_the_tested_release_serves_every_gpu_that_we_claim(offer):
    surface = records.recorded(TESTED).surface
    refused = {sm: compare.why_not(surface, offer.entry, arch(sm)) for sm in ours(offer)}
    assert {sm: reason for sm, reason in refused.items() if reason is not None} == {}


@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_parameters_are_named_in_the_order_of_the_tested_release(offer):
    function = records.recorded(TESTED).surface.functions[offer.entry.function]
    order = [p.name for p in function.parameters]
    named = [name for name in offer.entry.parameters if name in order]
    assert named == sorted(named, key=order.index)


@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_a_module_is_known_and_is_made_for_every_gpu_on_which_it_is_loaded(offer):
    for sm in ours(offer):
        for name in offer.entry.modules_on(arch(sm)):
            assert sm in MODULES[name].archs, name


@pytest.mark.parametrize("offer", OFFERS, ids=IDS)
def test_what_writes_fp4_is_never_offered_below_sm100(offer):
    # on sm90 the library's own quantizers compile, run, and leave the output as it was
    writes_fp4 = any(p.element == "fp4_e2m1" for p in offer.spec.capability.produces)
    reads_fp4 = any(s.weight.element == "fp4_e2m1" for s in offer.spec.capability.schemes)
    if writes_fp4 or reads_fp4:
        assert min(ours(offer)) >= 100
    assert min(ours(offer)) >= 80


def test_the_quantizers_that_write_nothing_on_sm90_are_among_them():
    writers = {o.entry.name for o in OFFERS if o.spec.op in ("quantize", "silu_mul_quantize")}
    assert writers & {"nvfp4_quantize", "fp4_quantize"}
    assert "silu_and_mul_nvfp4_quantize" in writers


def registry(version):
    """Give this backend as it is where a release is installed and everything else is here."""
    surface = records.recorded(version).surface

    def complete(offer):
        own, entry = offer.spec.veto, offer.entry

        def veto(config, device):
            found = own(config, device) if own is not None else None
            return found or compare.why_not(surface, entry, device.arch)

        return replace(offer.spec, veto=veto)

    class Plugin:
        @hookimpl
        def quantmux_backend(self):
            return BackendInfo("flashinfer", __version__, api=">=1.1,<2")

        @hookimpl
        def quantmux_kernels(self):
            return tuple(complete(offer) for offer in OFFERS)

    # the others for their producers: a product is only served where something makes its input
    others = {"torch": torch_plugin, "triton": triton_plugin}
    return Registry.of({"flashinfer": Plugin(), **others})


def cells(version):
    """Give kernel, scheme or operand with layout → one word for each of `SHOWN`."""
    found = {}
    asked = questions()
    context = Context(registry(version), Quarantine())
    for column, sm in enumerate(SHOWN):
        device = DeviceProfile(
            name=f"sm{sm}", title=f"sm{sm}", arch=arch(sm), is_present=True, index=0
        )
        for row in matrix_rows(context, device, asked):
            if row.backend == "flashinfer":
                words = found.setdefault((row.id, row.scheme), ["-"] * len(SHOWN))
                words[column] = word(row)
    return {key: words for key, words in found.items() if {"yes", "lib"} & set(words)}


def word(row):
    """``yes``; ``lib``: it fits, and this release does not serve it; ``-``: it does not fit."""
    if row.eligible:
        return "yes"
    codes = {str(reason.code) for reason in row.rejections}
    return "lib" if codes == {"unavailable"} else "-"


def columns(words):
    return "".join(f"{text:>7}" for text in words)


def table():
    """Give the text of `capability_table.txt`."""
    lines = [
        "What the FlashInfer backend takes, by release of the library and architecture.",
        "yes: it serves; lib: it would fit, and the release does not serve it; -: it does not fit.",
    ]
    for version in sorted(records.versions(), key=lambda v: v != TESTED):
        alike = {}
        for (kernel, label), words in sorted(cells(version).items()):
            alike.setdefault((kernel, tuple(words)), []).append(label)
        width = max(len(kernel) for kernel, _ in alike)
        lines += ["", f"flashinfer-python {version}", f"{'':{width}}{columns(HEADS)}"]
        lines += [f"{k:{width}}{columns(w)}  {', '.join(ls)}" for (k, w), ls in alike.items()]
    return "\n".join(lines) + "\n"


def test_the_whole_table_is_as_written_down():
    assert table() == TABLE.read_text(encoding="utf-8")


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201
