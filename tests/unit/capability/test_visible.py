import logging

import pytest

from quantmux.capability.nvml import Gpu
from quantmux.capability.visible import cuda_order

A, B, C = (Gpu("NVIDIA H200", f"GPU-{x}{x}-1", 9, 0) for x in "abc")
GPUS = (A, B, C)


def sees(value, gpus=GPUS):
    return cuda_order(gpus, {} if value is None else {"CUDA_VISIBLE_DEVICES": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("0,1,2", (A, B, C)),
        ("2,0", (C, A)),
        (" 1 , 2 ", (B, C)),
        ("1,-1,2", (B,)),
        ("1,7,2", (B,)),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,1", ()),
        ("0,1,0", ()),
        ("GPU-bb", (B,)),
        ("GPU-cc-1,0", (C, A)),
        ("GPU-", ()),
        ("GPU-zz,0", ()),
    ],
)
def test_follows_the_variable_as_cuda_does(value, expected):
    assert sees(value) == expected


S0, S1 = (Gpu("NVIDIA H200 MIG 1g.18gb", f"MIG-{i}", 9, 0, sm_count=16) for i in range(2))
SLICED = Gpu("NVIDIA H200", "GPU-dd", 9, 0, slices=(S0, S1))


@pytest.mark.parametrize(
    ("value", "gpus", "expected"),
    [
        (None, (SLICED,), (S0,)),
        (None, (SLICED, B), (S0,)),
        ("MIG-1", (SLICED, B), (S1,)),
        ("MIG-1,MIG-0", (SLICED,), (S1,)),
        ("MIG-9", (SLICED,), ()),
        ("1", (SLICED, B), (B,)),
        ("GPU-dd", (SLICED, B), (S0,)),
    ],
)
def test_a_process_sees_one_slice_of_a_partitioned_gpu(value, gpus, expected):
    assert sees(value, gpus) == expected


def test_says_when_cuda_may_number_different_gpus_otherwise(caplog):
    mixed = (A, Gpu("NVIDIA L40S", "GPU-l", 8, 9))
    with caplog.at_level(logging.WARNING, logger="quantmux"):
        cuda_order(mixed, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
        cuda_order(GPUS, {})
        assert not caplog.records
        assert cuda_order(mixed, {}) == mixed
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caplog.text
