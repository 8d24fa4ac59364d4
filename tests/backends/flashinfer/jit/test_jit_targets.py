from __future__ import annotations

import pytest

from quantmux.capability.arch import Arch
from quantmux_flashinfer.jit import gpus, targets

from_text = Arch.parse


@pytest.mark.parametrize(
    ("sm", "nvcc", "part"),
    [
        (80, "13.0.88", "80"),
        (89, "13.0.88", "89"),
        (90, "12.8.61", "90a"),
        (100, "13.0.88", "100a"),
        (103, "13.0.88", "103a"),
        (110, "13.0.88", "110a"),
        (120, "12.8.61", "120a"),
        (120, "12.9.41", "120f"),
        (121, "13.0.88", "121a"),
    ],
)
def test_a_gpu_has_the_target_that_flashinfer_compiles_for_it(sm, nvcc, part):
    assert targets.part_of(sm, nvcc) == part


def test_two_kinds_of_gpus_share_one_folder_and_one_target(machine):
    machine.has_gpus(90, 89, 90)
    target = gpus.target_here("13.0.88")
    assert target == "89+90a"
    assert targets.folder_of(target) == "89_90a"
    assert targets.list_of(target) == "8.9 9.0a"
    assert targets.numbers_of(target) == (89, 90)


def test_a_three_digit_number_comes_after_a_two_digit_one():
    assert targets.joined(["120f", "90a", "100a", "89"]) == "89+90a+100a+120f"


def test_the_list_of_the_user_goes_before_the_gpus(machine):
    machine.monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", "8.9 10.0")
    assert gpus.target_here("13.0.88") == "89+100a"
    # a GPU that is here, and that the list leaves out, finds no code
    assert gpus.target_for(from_text("90"), "13.0.88") == ""


def test_a_gpu_that_is_not_here_counts_as_alone(machine):
    machine.has_gpus(90)
    assert gpus.target_for(from_text("100"), "13.0.88") == "100a"
    assert gpus.target_for(from_text("90"), "13.0.88") == "90a"


@pytest.mark.parametrize(
    "listed", ["9.0", "9.0a", "8.9 9.0", "12.0 12.1", "10.3 10.0", "12.0f 9.0"]
)
def test_the_folder_is_the_one_that_the_library_itself_names(listed, installed, monkeypatch):
    from flashinfer.jit import cpp_ext, env

    del installed
    monkeypatch.setenv("FLASHINFER_CUDA_ARCH_LIST", listed)
    monkeypatch.setattr(cpp_ext, "is_cuda_version_at_least", lambda _text: True)
    theirs = env._get_workspace_dir_name().name
    assert targets.folder_of(targets.read_list(listed, "13.0.88")) == theirs
