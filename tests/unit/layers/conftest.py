import pytest
import torch
from torch import nn


class Block(nn.Module):
    """Two projections, one of them under two names, a tied pair, and what must be left alone."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(32, 32, bias=False)
        self.k = nn.Linear(32, 32)
        self.again = self.k
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 16)

    def forward(self, x, flip=False):
        x = self.norm(self.q(x) + self.k(x))
        x = -x if flip else x
        return self.head(self.again(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(Block(), nn.ReLU(), nn.Linear(16, 8)).eval()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 32, generator=generator) * 10.0**i for i in (-1, 0, 1)]
