"""compile: what torch.compile does with a quantized model beyond tracing it.

``fusion_pass`` gives a pass for inductor that lets one kernel do what stands before a quantized
layer and its quantization, wherever a backend offers exactly what that layer reads.
"""

from __future__ import annotations

from quantmux.compile.fusion import FusionPass, fusion_pass
from quantmux.compile.report import FusionReport, Site

__all__ = ["FusionPass", "FusionReport", "Site", "fusion_pass"]
