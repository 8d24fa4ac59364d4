"""What is wanted: formats, operands, schemes, layouts, layer configs, policy.

Imports pydantic and the standard library only; everything above may import this room.
"""

from quantmux.config.formats import Dtype, ElementFormat
from quantmux.config.layers import (
    InverseRopeQuantizeConfig,
    LayerConfig,
    LinearConfig,
    ProducerConfig,
    QuantizeConfig,
    RelayoutConfig,
    SiluMulQuantizeConfig,
    layer_config_schema,
    parse_layer_config,
)
from quantmux.config.layouts import Layout, default_layout, layouts_for, round_up
from quantmux.config.operands import OPERANDS, Block, Operand, operand
from quantmux.config.schemes import SCHEMES, Scheme, scheme

__all__ = [
    "OPERANDS",
    "SCHEMES",
    "Block",
    "Dtype",
    "ElementFormat",
    "InverseRopeQuantizeConfig",
    "LayerConfig",
    "Layout",
    "LinearConfig",
    "Operand",
    "ProducerConfig",
    "QuantizeConfig",
    "RelayoutConfig",
    "Scheme",
    "SiluMulQuantizeConfig",
    "default_layout",
    "layer_config_schema",
    "layouts_for",
    "operand",
    "parse_layer_config",
    "round_up",
    "scheme",
]
