"""Whether a call would be right here: asked before a kernel is selected, never found out by it."""

import dataclasses
import sys
import time
from importlib import metadata

import pytest

from quantmux.capability import needs
from quantmux.capability.arch import Arch
from quantmux.capability.capability import Capability, OperandOffer
from quantmux.capability.device import DeviceProfile
from quantmux.capability.profiles import PROFILES
from quantmux.capability.rejection import Rejection, RejectionCode
from quantmux.config import QuantizeConfig
from quantmux.config import operand as preset
from quantmux.registry.kernel_spec import KernelSpec
from quantmux_flashinfer import availability, cubins
from quantmux_flashinfer.entries import Entry, ModuleUse, Offer
from quantmux_flashinfer.surface import compare, records
from quantmux_flashinfer.surface.compare import TESTED
from quantmux_flashinfer.surface.declared import BackendChoice, Parameter, Surface

NAME = "flashinfer:bmm_fp8"
CALL = Entry(
    function=NAME,
    parameters=("A", "B", "A_scale", "B_scale", "dtype", "out"),
    backend="cublas",
    is_gated=True,
)
FP4 = Entry(
    function="flashinfer:mm_fp4",
    parameters=("a", "b", "a_descale", "b_descale", "alpha", "out_dtype", "out"),
    backend="cutlass",
    is_gated=True,
)
QUANTIZER = Entry(
    function="flashinfer:nvfp4_quantize",
    parameters=("a", "a_global_sf", "sfLayout"),
    backend="cuda",
)
CONFIG = QuantizeConfig(operand="fp8_token", n=64)


def surface(version=TESTED):
    return records.recorded(version).surface


def arch(sm):
    return Arch.parse(str(sm))


def gpu(sm=90):
    return DeviceProfile(name="h200", title="GPU", arch=arch(sm), is_present=True, index=0)


def drifted(entry=CALL, **changes):
    """Give a release of which one function is another one than in the tested release."""
    function = dataclasses.replace(surface().functions[entry.function], **changes)
    return dataclasses.replace(surface(), version="0.7.9", functions={entry.function: function})


def function_of(entry=CALL):
    return surface().functions[entry.function]


def text(release, entry=CALL, sm=90):
    found = compare.why_not(release, entry, arch(sm))
    assert found is not None
    assert found.code is RejectionCode.UNAVAILABLE
    return found.text


def test_the_tested_release_serves_what_it_lists():
    for sm in (89, 90, 100, 103, 107, 110, 120, 121):
        assert compare.why_not(surface(), CALL, arch(sm)) is None
    for sm in (80, 86, 101, 104, 122, 130):
        needs_one, found = text(surface(), sm=sm).split(", found ")
        assert "sm90" in needs_one
        assert found == f"sm{sm} with flashinfer-python {TESTED}"


def test_a_release_without_the_function_is_named():
    found = compare.why_not(
        surface("0.6.8"), dataclasses.replace(CALL, function="x:gone"), arch(90)
    )
    assert (found.field, found.required) == ("gone", "flashinfer-python with gone")
    assert found.actual == "0.6.8: no such function"
    assert found.hint == f"pip install -U 'flashinfer-python=={TESTED}'"


def test_a_renamed_parameter_is_refused():
    renamed = tuple(
        dataclasses.replace(p, name="scale_a") if p.name == "A_scale" else p
        for p in function_of().parameters
    )
    assert "0.7.9: no parameter A_scale" in text(drifted(parameters=renamed))


def test_a_new_parameter_that_must_be_given_is_refused():
    more = (*function_of().parameters, Parameter("bias", "keyword", is_required=True))
    assert "bias must be given" in text(drifted(parameters=more))
    optional = (*function_of().parameters, Parameter("bias", "keyword", is_required=False))
    assert compare.why_not(drifted(parameters=optional), CALL, arch(90)) is None


def test_parameters_in_another_order_are_refused():
    first, second, *rest = function_of().parameters
    assert "they come in the order B, A, " in text(drifted(parameters=(second, first, *rest)))


def test_a_dropped_backend_is_refused():
    left = {n: b for n, b in function_of().backends.items() if n != "cublas"}
    assert "backend cublas, found 0.7.9: backends cudnn, cutlass" in text(drifted(backends=left))


def test_a_backend_that_becomes_experimental_is_refused():
    backends = {**function_of().backends, "cublas": BackendChoice((90,), is_experimental=True)}
    assert "experimental" in text(drifted(backends=backends))


def test_a_narrower_list_is_refused_where_it_does_not_hold():
    narrower = drifted(backends={**function_of().backends, "cublas": BackendChoice((90, 100))})
    assert compare.why_not(narrower, CALL, arch(90)) is None
    found = compare.why_not(narrower, CALL, arch(89))
    assert (found.required, found.actual) == (
        "one of sm90, sm100",
        "sm89 with flashinfer-python 0.7.9",
    )


def test_a_list_that_cannot_be_read_is_no_yes():
    unread = drifted(backends={**function_of().backends, "cublas": BackendChoice(None)})
    assert "no list to be read" in text(unread)


def test_a_check_that_was_taken_away_is_no_yes():
    assert "no list of GPUs" in text(drifted(is_gated=False, backends={}))


def test_a_check_that_is_new_counts():
    gated = drifted(QUANTIZER, is_gated=True, backends={"cuda": BackendChoice((100,))})
    assert compare.why_not(gated, QUANTIZER, arch(100)) is None
    assert text(gated, QUANTIZER, 120).endswith("sm120 with flashinfer-python 0.7.9")


def test_an_ungated_function_says_with_its_annotation_which_backends_it_has():
    assert (
        compare.why_not(drifted(QUANTIZER, choices=("cuda", "auto")), QUANTIZER, arch(100)) is None
    )
    assert "backends cake" in text(drifted(QUANTIZER, choices=("cake",)), QUANTIZER, 100)
    plain = tuple(p for p in function_of(QUANTIZER).parameters if p.name != "backend")
    assert "no choice of backends" in text(drifted(QUANTIZER, parameters=plain), QUANTIZER, 100)


def test_the_wrong_cublas_handle_of_older_releases_is_refused_where_it_did_harm():
    assert compare.why_not(surface("0.6.18.post1"), CALL, arch(90)) is None
    assert "issues 2337, 3085" in text(surface("0.6.18.post1"), sm=100)
    assert compare.why_not(surface(), CALL, arch(100)) is None


def test_a_backend_that_a_release_does_not_have_yet_is_named_as_in_the_docs():
    entry = dataclasses.replace(CALL, function="flashinfer:mm_fp8", parameters=("a", "b", "alpha"))
    found = compare.why_not(surface("0.6.18.post1"), entry, arch(90))
    assert found.text == (
        "mm_fp8 needs flashinfer-python with mm_fp8 backend cublas, "
        "found 0.6.18.post1: backends trtllm_low_latency"
    )


@pytest.fixture
def here(monkeypatch):
    """Say what this machine has; at first everything, and the tested release."""
    given = {"surface": surface(), "modules": set(), "packages": {}, "gone": set()}
    monkeypatch.setattr(availability, "installed_surface", lambda _names: given["surface"])
    monkeypatch.setattr(availability, "module_exists", lambda name: name not in given["gone"])
    monkeypatch.setattr(availability, "package_version", given["packages"].get)

    def why_not(name, on):
        if name not in given["modules"]:
            return None
        return Rejection(RejectionCode.NEEDS_TOOL, "nvcc", f"nvcc for {name}", str(on))

    monkeypatch.setattr(availability.states, "why_not", why_not)
    availability.forget()
    yield given
    availability.forget()


def asked(entry, sm=90, functions=frozenset({NAME})):
    return availability.why_not(entry, arch(sm), functions)


def test_with_everything_here_nothing_is_refused(here):
    assert asked(CALL) is None
    here["surface"] = None
    assert asked(CALL).field == "flashinfer-python"


def test_what_the_library_imports_is_asked_for(here):
    here["gone"] = {"tvm_ffi", "requests"}
    found = asked(CALL)
    assert found.code is RejectionCode.NEEDS_PACKAGE
    assert found.hint == "pip install apache-tvm-ffi requests"


def test_a_package_is_held_against_what_the_installed_release_asks_for(here, monkeypatch):
    lines = ["nvidia-cudnn-frontend>=1.31.0", 'nvidia-cutlass-dsl==9; extra == "b12x"', "?"]
    monkeypatch.setattr(metadata, "requires", lambda _name: lines)
    entry = dataclasses.replace(CALL, packages=(("nvidia-cudnn-frontend", "cudnn"),))
    here["packages"]["nvidia-cudnn-frontend"] = "1.30.0"
    found = asked(entry)
    assert (found.field, found.actual) == ("nvidia-cudnn-frontend", "1.30.0")
    here["packages"]["nvidia-cudnn-frontend"] = "1.32.0"
    assert asked(entry) is None
    dsl = dataclasses.replace(CALL, packages=(("nvidia-cutlass-dsl", "cutlass"),))
    here["packages"]["nvidia-cutlass-dsl"] = "4.7.0"
    assert asked(dsl) is None


def test_modules_that_cannot_be_compiled_are_asked_for_on_their_gpus_only(here):
    entry = dataclasses.replace(CALL, modules=(ModuleUse("a"), ModuleUse("b", ("100f",))))
    here["modules"] = {"b"}
    assert asked(entry, 90) is None
    assert asked(entry, 103).required == "nvcc for b"
    here["modules"] = {"a", "b"}
    assert asked(entry, 90).required == "nvcc for a"


@pytest.fixture
def cubin_folder(monkeypatch, tmp_path):
    monkeypatch.setenv(cubins.VARIABLE, str(tmp_path))
    cubins.forget()
    folder = tmp_path / surface().artifacts[cubins.ARTIFACT]
    folder.mkdir(parents=True)
    yield folder
    cubins.forget()


def test_kernels_that_would_download_are_refused_until_every_file_is_here(cubin_folder):
    entry_text = cubins.cubins_rejection(surface()).actual
    assert entry_text == f"no checksums.txt in {cubin_folder}"
    lines = ["00 include/flashinferMetaInfo.h", "11 gemm/a.cubin", "22 gemm/b.cubin"]
    (cubin_folder / "checksums.txt").write_text("\n".join(lines) + "\n")
    (cubin_folder / "a.cubin").write_bytes(b"")
    cubins.forget()
    assert cubins.cubins_rejection(surface()).actual.startswith("1 of 2 files are not in ")
    (cubin_folder / "b.cubin").write_bytes(b"")
    cubins.forget()
    assert cubins.cubins_rejection(surface()) is None


def test_only_a_call_that_would_download_is_asked_for_its_files(here, cubin_folder):
    assert here["surface"] is not None
    assert not (cubin_folder / cubins.MANIFEST).exists()
    assert asked(CALL) is None
    assert asked(dataclasses.replace(CALL, cubins=True)).field == "cubins"


def test_a_release_that_names_no_files_is_refused(cubin_folder):
    assert cubin_folder.is_dir()
    unnamed = dataclasses.replace(surface(), artifacts={})
    assert "does not say" in cubins.cubins_rejection(unnamed).actual


def test_precompiled_kernels_of_another_version_do_not_count(monkeypatch, tmp_path):
    package = tmp_path / "flashinfer_cubin"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(cubins.VARIABLE, raising=False)
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "base"))
    monkeypatch.setattr(cubins, "package_version", lambda _name: "0.6.13")
    assert cubins.cubin_folder("0.6.13") == package / "cubins"
    own = tmp_path / "base" / ".cache" / "flashinfer" / "cubins"
    assert cubins.cubin_folder(TESTED) == own
    assert "flashinfer_cubin" not in sys.modules


def offer(entry=CALL, veto=None):
    capability = Capability(
        arch="90a", produces=(OperandOffer.of(preset("fp8_token"), ("row_major",)),)
    )
    spec = KernelSpec("flashinfer/x", "quantize", capability, load="x.y:z", veto=veto)
    return Offer(spec, entry)


@pytest.mark.usefixtures("here")
def test_a_kernel_s_own_veto_goes_first():
    mine = Rejection(RejectionCode.VETO, "k", "less", "more")
    answer = availability.veto(offer(veto=lambda _c, _d: mine), frozenset({NAME}))
    assert answer(CONFIG, gpu(80)) is mine
    other = availability.veto(offer(veto=lambda _c, _d: None), frozenset({NAME}))
    assert other(CONFIG, gpu(80)).code is RejectionCode.UNAVAILABLE
    assert other(CONFIG, gpu(90)) is None


def test_for_a_gpu_that_is_not_here_the_library_is_assumed(here):
    here["surface"] = None
    answer = availability.veto(offer(), frozenset({NAME}))
    assert answer(CONFIG, PROFILES["a100"]) is None
    assert answer(CONFIG, gpu(90)) is not None


def test_vetoes_of_a_selection_take_a_small_part_of_its_time(installed):
    assert installed.__version__
    needs.forget()
    functions = frozenset({NAME, FP4.function, QUANTIZER.function})
    entries = [CALL, FP4, QUANTIZER] * 10
    answers = [availability.why_not(entry, arch(100), functions) for entry in entries]
    best = min(_timed(entries, functions) for _ in range(5))
    assert len(answers) == 30
    assert best < 2e-3


def _timed(entries, functions):
    start = time.perf_counter()
    for entry in entries:
        availability.why_not(entry, arch(100), functions)
    return time.perf_counter() - start


def test_surfaces_are_values():
    assert surface() == Surface.from_dict(surface().to_dict())
