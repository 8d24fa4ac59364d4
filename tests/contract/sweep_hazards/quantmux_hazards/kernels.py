"""The kernels. What each does at a call is its name."""

# ruff: noqa: ARG001, ARG002 - the arguments are the protocol's

import ctypes
import os
import sys
import time

import torch

from quantmux.ops.quantize.reference import quantize


class Kernel:
    def __init__(self, act):
        self._act = act

    def bind(self, config, device):
        def call(x, *, scale=None, global_scale=None, out=None):
            return self._act(x, config, out)

        return call

    def warmup(self, config, ms):
        pass


def _sound(x, config, out):
    return quantize(x, config, out=out)


def _crashes(x, config, out):
    ctypes.string_at(0)


def _exits(x, config, out):
    sys.stdout.write('{"end": "all is well", "outcome": {"verdict": "agrees"}}\n')
    sys.stdout.flush()
    os._exit(0)


def _hangs(x, config, out):
    while True:
        time.sleep(1)


def _raises(x, config, out):
    raise RuntimeError("no kernel of this name")


def _zeros(x, config, out):
    made = quantize(x, config, out=out)
    made.data.zero_()
    return made


def _poisons(x, config, out):
    made = quantize(x, config, out=out)
    if x.numel():
        # a device-side assertion: the context is lost, and the host hears of it later
        torch.zeros(1, device=x.device)[torch.full((1,), 1 << 20, device=x.device)]
    return made


gpu_sound, gpu_poisons = Kernel(_sound), Kernel(_poisons)
sound, crashes, exits = Kernel(_sound), Kernel(_crashes), Kernel(_exits)
hangs, raises, zeros = Kernel(_hangs), Kernel(_raises), Kernel(_zeros)
