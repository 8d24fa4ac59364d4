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
    RmsNormQuantizeConfig,
    RopeQuantizeConfig,
    SiluMulQuantizeConfig,
    layer_config_schema,
    parse_layer_config,
)
from quantmux.config.layouts import Layout, default_layout, layouts_for, round_up
from quantmux.config.operands import OPERANDS, Block, Operand, operand
from quantmux.config.policy import FallbackPolicy, PluginSettings, Policy, Rule
from quantmux.config.policy_context import current_context, use_policy
from quantmux.config.policy_file import LoadedPolicy, default_policy, load_policy
from quantmux.config.schemes import SCHEMES, Scheme, scheme
from quantmux.config.settings import Settings, resolve

__all__ = [
    "OPERANDS",
    "SCHEMES",
    "Block",
    "Dtype",
    "ElementFormat",
    "FallbackPolicy",
    "InverseRopeQuantizeConfig",
    "LayerConfig",
    "Layout",
    "LinearConfig",
    "LoadedPolicy",
    "Operand",
    "PluginSettings",
    "Policy",
    "ProducerConfig",
    "QuantizeConfig",
    "RelayoutConfig",
    "RmsNormQuantizeConfig",
    "RopeQuantizeConfig",
    "Rule",
    "Scheme",
    "Settings",
    "SiluMulQuantizeConfig",
    "current_context",
    "default_layout",
    "default_policy",
    "layer_config_schema",
    "layouts_for",
    "load_policy",
    "operand",
    "parse_layer_config",
    "resolve",
    "round_up",
    "scheme",
    "use_policy",
]
