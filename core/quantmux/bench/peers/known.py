"""The peers that the harness knows, and which of them are here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from quantmux.bench.peers.deepgemm import DeepGemm
from quantmux.bench.peers.torch_bf16 import TorchBf16
from quantmux.bench.peers.torch_scaled_mm import TorchScaledMm
from quantmux.bench.peers.vllm_ops import VllmScaledMm
from quantmux.bench.peers.vllm_producers import VllmGroupQuant, VllmSiluMulQuant
from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quantmux.bench.peers.base import Peer
    from quantmux.capability.device import DeviceProfile

PEERS: Final[dict[str, tuple[Callable[[], Peer], ...]]] = {
    "bf16": (TorchBf16,),
    "scaled_mm": (lambda: TorchScaledMm(fast=False), lambda: TorchScaledMm(fast=True)),
    "deepgemm": (DeepGemm, lambda: DeepGemm(pdl=True)),
    "vllm": (
        VllmScaledMm,
        VllmGroupQuant,
        *(partial(VllmSiluMulQuant, way) for way in ("fused", "two", "torch")),
    ),
}
"""Name on the command line → its adapters."""


def peers_of(names: Iterable[str]) -> list[Peer]:
    """Give the adapters of names; ``all`` is every one.

    Raises:
        ConfigError: A name is not known.
    """
    asked = list(names)
    found: list[Peer] = []
    for name in PEERS if asked == ["all"] else dict.fromkeys(asked):
        makers = PEERS.get(name)
        if makers is None:
            near = closest(name, PEERS)
            raise ConfigError(
                f'there is no peer "{name}"',
                facts=["peers: all " + " ".join(PEERS)],
                hint=f'did you mean "{near}"?' if near else None,
                code="usage",
            )
        found += [make() for make in makers]
    return found


def here(peers: Iterable[Peer], device: DeviceProfile) -> tuple[list[Peer], dict[str, str]]:
    """Split peers into those that can run on a device, and why the others cannot."""
    present: list[Peer] = []
    missing: dict[str, str] = {}
    for peer in peers:
        reason = peer.unavailable(device)
        if reason:
            missing[peer.name] = reason
        else:
            present.append(peer)
    return present, missing
