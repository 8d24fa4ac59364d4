"""What the capabilities of the FP8 linears cannot say: releases whose results were wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from quantmux.capability.needs import package_version
from quantmux.capability.rejection import Rejection, RejectionCode

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.config import LayerConfig

_OWN_HANDLE: Final = Version("0.7")


def own_cublas_handle(config: LayerConfig, device: DeviceProfile) -> Rejection | None:
    """Refuse a release that hands cuBLAS's handle to cuBLASLt.

    Before 0.7 it casts one to the other: wrong results and crashes on a B200 (flashinfer #2337,
    #3085), luck elsewhere.
    """
    del config
    if not device.is_present:
        return None
    found = package_version("flashinfer-python")
    if found is None:
        return None  # the need for the package says so
    try:
        has_one = Version(found).release >= _OWN_HANDLE.release
    except InvalidVersion:
        has_one = False
    if has_one:
        return None
    return Rejection(
        RejectionCode.NEEDS_PACKAGE,
        "flashinfer-python",
        "0.7 or later, whose bmm_fp8 has a handle of cuBLASLt's own",
        found,
        "pip install 'flashinfer-python>=0.7,<0.8'",
    )
