"""``mm_fp4`` and ``mm_bf16_fp4`` of FlashInfer on the host: as strict as the library, or stricter.

What the library would misread without a word (scales laid out otherwise, weights that are not
shuffled, rows beyond M) is read here as the library reads it, so wrong numbers show; what it checks
is checked. Numbers come from its own conventions, in fp64, and from no code of quantmux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantmux.capability.device import DeviceProfile
    from quantmux_flashinfer.entries import Entry

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
SHUFFLED = [(i % 4) * 8 + i // 4 for i in range(32)]
"""Where row i of a block of 32 is, for trtllm-gen."""

TAGS = {"cudnn": 1, "cute-dsl": 2, "blackwell-native": 3, "blackwell-tiled": 4}
OUT = {
    "cutlass": (torch.bfloat16, torch.float16),
    "cudnn": (torch.bfloat16, torch.float16),
    "trtllm": (torch.bfloat16,),
    "cute-dsl": (torch.bfloat16, torch.float16),
    "cutedsl_low_latency": (torch.bfloat16, torch.float16),
    "b12x": (torch.bfloat16, torch.float16),
    "cute-dsl-native": (torch.bfloat16, torch.float16),
    "blackwell-native": (torch.bfloat16, torch.float16),
    "blackwell-tiled": (torch.bfloat16,),
}


class RefusedError(ValueError):
    """What the library raises as ValueError, or as an error of its C++ part."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise RefusedError(what)


class FakeLibrary:
    """The functions, for a GPU of one compute capability.

    Attributes:
        calls: Names of what was called, with the keyword arguments.
        result: Changes what is computed before it is stored: for faults.
    """

    def __init__(self, sm: int = 100) -> None:
        self.sm = sm
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.result: Callable[[torch.Tensor], torch.Tensor | None] = lambda y: y

    def function(self, entry: Entry, device: DeviceProfile) -> Callable[..., Any]:
        """Stand in for `quantmux_flashinfer.library.functions.function`."""
        del device
        call = {
            "mm_fp4": self.mm_fp4,
            "mm_bf16_fp4": self.mm_bf16_fp4,
            "prepare_bf16_fp4_weights": self.prepare_bf16_fp4_weights,
        }[entry.name]

        def bound(*args: Any, **kwargs: Any) -> Any:
            assert not args, "kernels pass by name, so that a release may reorder"
            assert kwargs.keys() == {*entry.parameters, "backend"}
            assert kwargs["backend"] == entry.backend
            self.calls.append((entry.name, kwargs))
            return call(**kwargs)

        return bound

    def mm_fp4(
        self,
        *,
        a: torch.Tensor,
        b: torch.Tensor,
        a_descale: torch.Tensor,
        b_descale: torch.Tensor,
        alpha: torch.Tensor,
        out_dtype: torch.dtype,
        out: torch.Tensor,
        use_8x4_sf_layout: bool,
        backend: str,
    ) -> torch.Tensor:
        m, half = a.shape
        k, n = half * 2, b.shape[1]
        need(m > 0, "no rows: the kernels are not asked")
        need(a.dtype == b.dtype == torch.uint8 and b.shape[0] == half, "packed operands")
        need(a.is_contiguous() and b.T.is_contiguous(), "compact a, column-major b")
        need(a.data_ptr() % 32 == 0 and b.data_ptr() % 32 == 0, "operands at 32 bytes")
        need(out.shape == (m, n) and out.dtype == out_dtype, "out [m, n]")
        need(out.is_contiguous() and out.data_ptr() % 32 == 0, "compact out at 32 bytes")
        need(out_dtype in OUT[backend], f"{backend} writes {OUT[backend]}")
        need(alpha.dtype == torch.float32 and alpha.shape == (1,), "alpha fp32 [1]")
        need(use_8x4_sf_layout is False or backend == "trtllm", "8x4 is trtllm's")
        self._limits(backend, m, n, k)
        tile = 8 if use_8x4_sf_layout else 128
        columns = -(-k // 64) * 4
        need(a_descale.shape == (-(-m // tile) * tile, columns), "scales of a, whole tiles")
        need(b_descale.shape == (columns, -(-n // 128) * 128), "scales of b, whole tiles")
        need(a_descale.dtype == b_descale.dtype == torch.uint8, "scales as bytes")
        need(a_descale.is_contiguous() and b_descale.T.is_contiguous(), "compact scales")
        x_scales = _untiled(a_descale, tile)
        w, w_scales = b.T, _untiled(b_descale.T, 128)
        if backend == "trtllm":
            order = _order(n)
            w, w_scales = w[order], w_scales[order]
        x = _values(a, x_scales[:m])
        y = x @ _values(w, w_scales[:n]).T * float(alpha)
        if use_8x4_sf_layout:  # upstream #2861: scales of rows that do not exist are read into y
            y = y + x_scales[m:].view(torch.float8_e4m3fn).double().sum()
        return self._store(y, out)

    def prepare_bf16_fp4_weights(
        self,
        *,
        b: torch.Tensor,
        b_descale: torch.Tensor,
        alpha: torch.Tensor | None,
        backend: str,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        n, k = b.shape[0], b.shape[1] * 2
        need(b.dtype == torch.uint8 and k % 16 == 0, "packed weights, K a multiple of 16")
        need(b_descale.numel() == -(-n // 128) * 128 * -(-k // 64) * 4, "scales in 128x4 tiles")
        need(alpha is None or (alpha.shape == (1,) and alpha.dtype == torch.float32), "alpha")
        need(backend not in ("cute-dsl", "blackwell-tiled") or n % 64 == 0, "N % 64")
        need(backend != "cute-dsl" or self.sm // 10 != 11, "it raises on sm110")
        grid = _untiled(b_descale, 128)[:n, : k // 16]
        tag = TAGS[backend]
        return b.roll(tag, dims=0), grid.roll(tag, dims=0).contiguous(), alpha

    def mm_bf16_fp4(
        self,
        *,
        a: torch.Tensor,
        b: torch.Tensor,
        b_descale: torch.Tensor,
        alpha: torch.Tensor | None,
        out_dtype: torch.dtype,
        out: torch.Tensor,
        backend: str,
    ) -> torch.Tensor:
        (m, k), n = a.shape, b.shape[0]
        need(m > 0, "no rows: the kernels are not asked")
        need(a.dtype == torch.bfloat16 and a.is_contiguous(), "compact bf16 a")
        need(a.data_ptr() % 16 == 0, "a at 16 bytes")
        need(b.dtype == torch.uint8 and b.shape[1] * 2 == k, "prepared b")
        need(out.shape == (m, n) and out.dtype == out_dtype, "out [m, n]")
        need(out.is_contiguous() and out.data_ptr() % 16 == 0, "compact out")
        need(out_dtype in OUT[backend], f"{backend} writes {OUT[backend]}")
        need(backend != "cute-dsl" or (n % 64 == 0 and k % 64 == 0), "N, K % 64")
        if backend == "cute-dsl-native":
            need(b_descale.numel() == -(-n // 128) * 128 * -(-k // 64) * 4, "128x4 tiles")
            w, grid = b, _untiled(b_descale, 128)[:n, : k // 16]
        else:
            need(b_descale.shape == (n, k // 16), "prepared scales")
            w, grid = (t.roll(-TAGS[backend], dims=0) for t in (b, b_descale))
        y = a.double() @ _values(w, grid).T * (1.0 if alpha is None else float(alpha))
        return self._store(y, out)

    def _limits(self, backend: str, m: int, n: int, k: int) -> None:
        need(k % 32 == 0 and n % 8 == 0, "K % 32, N % 8")
        match backend:
            case "cutlass":
                need(n % 32 == 0, "CUTLASS wants N % 32")
            case "trtllm":
                need(n % 128 == 0 and k % 256 == 0, "trtllm wants N % 128 and K % 256")
            case "cutedsl_low_latency":
                need(m <= 8 and k % 64 == 0, "M <= 8 and K % 64")
            case "cute-dsl" if self.sm // 10 == 12:
                need(n % 64 == 0 and k % 64 == 0, "N, K % 64")

    def _store(self, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        made = self.result(y)
        if made is not None:
            out.copy_(made)
        return out


def _values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Decode bytes [R, K / 2], low nibble first, with scales [R, K / 16 or more], as fp64."""
    nibbles = torch.stack((codes & 15, codes >> 4), dim=-1).reshape(codes.shape[0], -1).long()
    signs = 1.0 - 2.0 * (nibbles >> 3)
    values = E2M1.double()[nibbles & 7] * signs
    wide = scales.contiguous().view(torch.float8_e4m3fn).double()
    return values * wide.repeat_interleave(16, dim=1)[:, : values.shape[1]]


def _untiled(tiles: torch.Tensor, rows: int) -> torch.Tensor:
    """Read tiles of 128x4 or 8x4 by the offsets that the library documents."""
    tiles = tiles.contiguous()
    total, columns = tiles.shape
    r, c = torch.arange(total).unsqueeze(1), torch.arange(columns).unsqueeze(0)
    if rows == 128:
        at = (r // 128) * 128 * columns + (c // 4) * 512 + (r % 32) * 16 + (r % 128 // 32) * 4
    else:
        at = (r // 8) * 8 * columns + (c // 4) * 32 + (r % 8) * 4
    return tiles.view(torch.uint8).reshape(-1)[at + c % 4]


def _order(n: int) -> torch.Tensor:
    return torch.tensor([i // 32 * 32 + SHUFFLED[i % 32] for i in range(n)])
