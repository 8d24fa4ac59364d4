"""quantmux: one description of a quantized layer in, the best kernel for the GPU at hand out.

Everything public is exported here once. Importing it imports neither torch nor any backend; a name
is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from quantmux._version import __version__

if TYPE_CHECKING:
    from quantmux import checkpoint, compile, config, errors  # noqa: A004 - a room is called so
    from quantmux.api import (
        device,
        devices,
        explain,
        plan,
        plugins,
        select,
    )
    from quantmux.capability.arch import Arch, ArchSet
    from quantmux.capability.capability import Capability, Needs, OperandOffer, SchemeOffer
    from quantmux.capability.device import DeviceProfile
    from quantmux.capability.evidence import EvidenceLevel
    from quantmux.capability.needs import needs_rejections
    from quantmux.capability.rejection import Rejection, RejectionCode
    from quantmux.config.layers import (
        InverseRopeQuantizeConfig,
        LayerConfig,
        LinearConfig,
        QuantizeConfig,
        RelayoutConfig,
        RmsNormQuantizeConfig,
        RopeQuantizeConfig,
        SiluMulQuantizeConfig,
        layer_config_schema,
        parse_layer_config,
    )
    from quantmux.config.layouts import Layout
    from quantmux.config.operands import Block, Operand, operand
    from quantmux.config.policy import FallbackPolicy, Policy, Rule
    from quantmux.config.policy_context import use_policy as policy
    from quantmux.config.schemes import Scheme, scheme
    from quantmux.dispatch.pipeline import Pipeline
    from quantmux.dispatch.plan import Plan
    from quantmux.dispatch.selection import Selection
    from quantmux.dispatch.tier import Tier
    from quantmux.errors import (
        BuildError,
        CheckpointError,
        ConfigError,
        DtypeError,
        ForcedKernelError,
        InputError,
        LaunchError,
        LayoutError,
        NoKernelError,
        NotBuiltError,
        NumericsError,
        PluginError,
        QuantmuxError,
        RunError,
        SelectionError,
        ShapeError,
    )
    from quantmux.layers.calibrate import Calibration, calibrate
    from quantmux.layers.linear import Linear
    from quantmux.layers.quantize import quantize_
    from quantmux.layers.report import QuantizeReport
    from quantmux.layers.shared import shared_input
    from quantmux.ops.linear.spec import empty_output
    from quantmux.ops.quantized import LinearWeights, QuantizedTensor, empty_quantized
    from quantmux.registry.default import plugin_options, register_plugin, unregister_plugin
    from quantmux.registry.hookspecs import hookimpl
    from quantmux.registry.kernel_spec import BackendInfo, BackendStatus, KernelSpec
    from quantmux.registry.protocol import Consumer, PreparedWeights, Producer, Relayouter
    from quantmux.runtime.events import FallbackEvent, reset_stats, stats
    from quantmux.runtime.producers import (
        inverse_rope_quantize,
        quantize,
        relayout,
        rmsnorm_quantize,
        rope_quantize,
        silu_mul_quantize,
    )
    from quantmux.runtime.warmup import WarmupReport, warmup

# public name -> (module, attribute); the one list of what is public, checked by a test
_EXPORTS: dict[str, tuple[str, str]] = {
    **{
        name: ("quantmux.api", name)
        for name in ("device", "devices", "explain", "plan", "plugins", "select")
    },
    "Arch": ("quantmux.capability.arch", "Arch"),
    "ArchSet": ("quantmux.capability.arch", "ArchSet"),
    **{
        name: ("quantmux.capability.capability", name)
        for name in ("Capability", "Needs", "OperandOffer", "SchemeOffer")
    },
    "DeviceProfile": ("quantmux.capability.device", "DeviceProfile"),
    "EvidenceLevel": ("quantmux.capability.evidence", "EvidenceLevel"),
    "needs_rejections": ("quantmux.capability.needs", "needs_rejections"),
    "Rejection": ("quantmux.capability.rejection", "Rejection"),
    "RejectionCode": ("quantmux.capability.rejection", "RejectionCode"),
    **{
        name: ("quantmux.config.layers", name)
        for name in (
            "InverseRopeQuantizeConfig",
            "LayerConfig",
            "LinearConfig",
            "QuantizeConfig",
            "RelayoutConfig",
            "RmsNormQuantizeConfig",
            "RopeQuantizeConfig",
            "SiluMulQuantizeConfig",
            "layer_config_schema",
            "parse_layer_config",
        )
    },
    "Layout": ("quantmux.config.layouts", "Layout"),
    **{name: ("quantmux.config.operands", name) for name in ("Block", "Operand", "operand")},
    **{name: ("quantmux.config.policy", name) for name in ("FallbackPolicy", "Policy", "Rule")},
    "policy": ("quantmux.config.policy_context", "use_policy"),
    "Scheme": ("quantmux.config.schemes", "Scheme"),
    "scheme": ("quantmux.config.schemes", "scheme"),
    "Pipeline": ("quantmux.dispatch.pipeline", "Pipeline"),
    "Plan": ("quantmux.dispatch.plan", "Plan"),
    "Selection": ("quantmux.dispatch.selection", "Selection"),
    "Tier": ("quantmux.dispatch.tier", "Tier"),
    **{
        name: ("quantmux.errors", name)
        for name in (
            "BuildError",
            "CheckpointError",
            "ConfigError",
            "DtypeError",
            "ForcedKernelError",
            "InputError",
            "LaunchError",
            "LayoutError",
            "NoKernelError",
            "NotBuiltError",
            "NumericsError",
            "PluginError",
            "QuantmuxError",
            "RunError",
            "SelectionError",
            "ShapeError",
        )
    },
    "Calibration": ("quantmux.layers.calibrate", "Calibration"),
    "calibrate": ("quantmux.layers.calibrate", "calibrate"),
    "Linear": ("quantmux.layers.linear", "Linear"),
    **{
        name: ("quantmux.runtime.producers", name)
        for name in (
            "inverse_rope_quantize",
            "quantize",
            "relayout",
            "rmsnorm_quantize",
            "rope_quantize",
            "silu_mul_quantize",
        )
    },
    "QuantizeReport": ("quantmux.layers.report", "QuantizeReport"),
    "quantize_": ("quantmux.layers.quantize", "quantize_"),
    "shared_input": ("quantmux.layers.shared", "shared_input"),
    "empty_output": ("quantmux.ops.linear.spec", "empty_output"),
    **{
        name: ("quantmux.ops.quantized", name)
        for name in ("LinearWeights", "QuantizedTensor", "empty_quantized")
    },
    **{
        name: ("quantmux.registry.default", name)
        for name in ("plugin_options", "register_plugin", "unregister_plugin")
    },
    "hookimpl": ("quantmux.registry.hookspecs", "hookimpl"),
    **{
        name: ("quantmux.registry.kernel_spec", name)
        for name in ("BackendInfo", "BackendStatus", "KernelSpec")
    },
    **{
        name: ("quantmux.registry.protocol", name)
        for name in ("Consumer", "PreparedWeights", "Producer", "Relayouter")
    },
    **{
        name: ("quantmux.runtime.events", name)
        for name in ("FallbackEvent", "reset_stats", "stats")
    },
    **{name: ("quantmux.runtime.warmup", name) for name in ("WarmupReport", "warmup")},
}

_ROOMS = ("checkpoint", "compile", "config", "errors")

__all__ = [
    "Arch",
    "ArchSet",
    "BackendInfo",
    "BackendStatus",
    "Block",
    "BuildError",
    "Calibration",
    "Capability",
    "CheckpointError",
    "ConfigError",
    "Consumer",
    "DeviceProfile",
    "DtypeError",
    "EvidenceLevel",
    "FallbackEvent",
    "FallbackPolicy",
    "ForcedKernelError",
    "InputError",
    "InverseRopeQuantizeConfig",
    "KernelSpec",
    "LaunchError",
    "LayerConfig",
    "Layout",
    "LayoutError",
    "Linear",
    "LinearConfig",
    "LinearWeights",
    "Needs",
    "NoKernelError",
    "NotBuiltError",
    "NumericsError",
    "Operand",
    "OperandOffer",
    "Pipeline",
    "Plan",
    "PluginError",
    "Policy",
    "PreparedWeights",
    "Producer",
    "QuantizeConfig",
    "QuantizeReport",
    "QuantizedTensor",
    "QuantmuxError",
    "Rejection",
    "RejectionCode",
    "RelayoutConfig",
    "Relayouter",
    "RmsNormQuantizeConfig",
    "RopeQuantizeConfig",
    "Rule",
    "RunError",
    "Scheme",
    "SchemeOffer",
    "Selection",
    "SelectionError",
    "ShapeError",
    "SiluMulQuantizeConfig",
    "Tier",
    "WarmupReport",
    "__version__",
    "calibrate",
    "checkpoint",
    "compile",
    "config",
    "device",
    "devices",
    "empty_output",
    "empty_quantized",
    "errors",
    "explain",
    "hookimpl",
    "inverse_rope_quantize",
    "layer_config_schema",
    "needs_rejections",
    "operand",
    "parse_layer_config",
    "plan",
    "plugin_options",
    "plugins",
    "policy",
    "quantize",
    "quantize_",
    "register_plugin",
    "relayout",
    "reset_stats",
    "rmsnorm_quantize",
    "rope_quantize",
    "scheme",
    "select",
    "shared_input",
    "silu_mul_quantize",
    "stats",
    "unregister_plugin",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name in _ROOMS:
        return importlib.import_module(f"quantmux.{name}")
    target = _EXPORTS.get(name)
    if target is None:
        raise AttributeError(f"module 'quantmux' has no attribute {name!r}")
    value = getattr(importlib.import_module(target[0]), target[1])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
