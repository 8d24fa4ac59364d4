"""RMSNorm and the rotation: what stands between the linears."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class RmsNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) · weight`` over the last dimension.

    Weights are near 1 and not equal, so that a norm that forgets them is seen.
    """

    def __init__(self, width: int, eps: float, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator(device=device).manual_seed(width)
        drawn = torch.randn(width, generator=generator, device=device)
        self.weight = nn.Parameter((1.0 + 0.1 * drawn).to(torch.bfloat16), requires_grad=False)
        self._width = (width,)
        self._eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the normed rows of x [..., width]."""
        return functional.rms_norm(x, self._width, self.weight, self._eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of every head against each other.

    Args:
        x: [M, heads, dim].
        cos: [M, dim].
        sin: [M, dim].
    """
    low, high = x.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)
