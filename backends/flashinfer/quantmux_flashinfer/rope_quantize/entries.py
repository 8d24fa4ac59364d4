"""What the RoPE kernel calls of FlashInfer, as data.

Left out, and why: ``mla_rope_quantize_fp8`` is the same with other shapes of its arguments;
``rope_quantize_fp8_append_paged_kv_cache`` writes into a cache, which no op here does; the back end
``cutile`` knows interleaved pairs and one key head only.
"""

from __future__ import annotations

from typing import Final

from quantmux_flashinfer.entries import Entry, ModuleUse

ROPE: Final = Entry(
    function="flashinfer.rope:rope_quantize_fp8",
    parameters=(
        "q_rope",
        "k_rope",
        "q_nope",
        "k_nope",
        "cos_sin_cache",
        "pos_ids",
        "is_neox",
        "quantize_dtype",
        "quant_scale_q",
        "quant_scale_kv",
        "q_rope_out",
        "k_rope_out",
        "q_nope_out",
        "k_nope_out",
        "enable_pdl",
    ),
    modules=(ModuleUse("rope"),),
)
