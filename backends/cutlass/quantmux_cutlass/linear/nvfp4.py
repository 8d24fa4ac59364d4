"""cutlass/linear_nvfp4: NVFP4 by NVFP4 on the block-scaled tensor cores of Blackwell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantmux_cutlass.instructions import require_instruction
from quantmux_cutlass.linear.consumer import CutlassLinear
from quantmux_cutlass.linear.nvfp4_config import choose
from quantmux_cutlass.linear.nvfp4_weights import swizzled_weights

if TYPE_CHECKING:
    from quantmux.capability.arch import Arch
    from quantmux.config import LinearConfig
    from quantmux.registry.protocol import CompiledCode

MULTIPLIES: Final = {
    "sm_100": r"UTCOMMA(\.2CTA)?\.4X",
    "sm_120": r"OMMA\.SF\.16864\.F32\.E2M1\.E2M1\.UE4M3\.4X",
}
"""The block-scaled product of each family, by what its targets begin with: ``.4X`` is four scales
for 64 values, one for 16. tcgen05 keeps the formats in a descriptor, mma.sync in its name."""


class Nvfp4Linear(CutlassLinear):
    """`CutlassLinear` whose machine code must hold the block-scaled product, seen on no GPU yet."""

    def compile_for(self, config: LinearConfig, arch: Arch) -> list[CompiledCode]:
        """Give the machine code of everything that some M launches on ``arch``.

        Raises:
            BuildError: The compiler refuses or is not here, or the code lacks the instruction.
        """
        made = super().compile_for(config, arch)
        return [require_instruction(code, MULTIPLIES[code.target.rstrip("f")]) for code in made]


kernel: Final = Nvfp4Linear("nvfp4", choose, row_multiple=8, prepare=swizzled_weights)
