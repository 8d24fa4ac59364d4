"""What selection would say under given measured times, on a device that need not be here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from quantmux.dispatch.select import survey

if TYPE_CHECKING:
    from collections.abc import Collection

    from quantmux.bench.selection.cells import Selector
    from quantmux.capability.device import DeviceProfile
    from quantmux.dispatch.selection import Selection
    from quantmux.dispatch.tuning import TuningTable
    from quantmux.runtime.context import Context


def selector(
    context: Context,
    device: DeviceProfile,
    *,
    times: TuningTable | None = None,
    kernels: Collection[str] | None = None,
    copies: int | None = None,
) -> Selector:
    """Give what selects, by the policy and the kernels of a context.

    Args:
        context: Plugins and policy.
        device: Where; a named profile does.
        times: In place of the measured times that are shipped and recorded; None takes those.
        kernels: Only these, as in a run on a machine that had no others; None takes all.
        copies: Prepared forms of one weight that may be held; None leaves it to the policy.
    """
    inventory = context.inventory(device)
    if times is not None:
        inventory = replace(inventory, tuning=times)
    if kernels is not None:
        here = tuple(spec for spec in inventory.kernels if spec.id in set(kernels))
        inventory = replace(inventory, kernels=here)

    @cache
    def select(config: Any) -> Selection:
        call = None if copies is None else {"weight_copies": copies}
        settings = context.settings(config, device, call_overrides=call)
        return survey(config, device, settings, inventory)

    return select
