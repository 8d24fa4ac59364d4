"""torch/silu_mul_quantize: the reference of silu(gate)·up, x [M, 2n], and its quantization."""

from typing import Final

from quantmux.config import SiluMulQuantizeConfig
from quantmux.ops.silu_mul_quantize.reference import silu_mul_quantize
from quantmux_torch.reference_producer import ReferenceProducer

kernel: Final = ReferenceProducer("silu_mul_quantize", SiluMulQuantizeConfig, silu_mul_quantize)
