"""A call on zeros for every M, so that modules load and tiles compile outside of a capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from quantmux.ops.spec import Case, op_spec

if TYPE_CHECKING:
    from collections.abc import Sequence


def dry_run(kernel: Any, config: Any, ms: Sequence[int]) -> None:
    """Call a producer or a relayout kernel on the current GPU; without a GPU do nothing.

    Args:
        kernel: What ``bind`` is asked of.
        config: Its config.
        ms: Numbers of rows.
    """
    if not torch.cuda.is_available():
        return
    from quantmux.capability.detect import device_here

    profile = device_here(torch.device("cuda", torch.cuda.current_device()))
    run, make = kernel.bind(config, profile), op_spec(config.op).inputs
    for m in dict.fromkeys(m for m in ms if m > 0):
        call = make(Case(config, m, "zeros"), profile.torch_name, 0)
        run(*call.args, **call.kwargs)
    # what compiles or loads in a call must have done so when this returns, errors included
    torch.cuda.current_stream(torch.device(profile.torch_name)).synchronize()
