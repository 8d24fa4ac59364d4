"""torch/quantize: the reference quantizer of x [M, n] as a kernel."""

from typing import Final

from quantmux.config import QuantizeConfig
from quantmux.ops.quantize.reference import quantize
from quantmux_torch.reference_producer import ReferenceProducer

kernel: Final = ReferenceProducer("quantize", QuantizeConfig, quantize)
