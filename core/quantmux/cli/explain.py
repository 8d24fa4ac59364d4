"""explain: what one layer would take on a device, and why every other kernel would not serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.cli._config_args import config_from_json, config_from_options, op_name
from quantmux.cli._options import AsJson, DeviceName, InstalledOnly, PluginsFile
from quantmux.cli._render import print_error, print_json, warn
from quantmux.cli._selection_view import show_selection
from quantmux.cli._session import find_device, open_context
from quantmux.dispatch.select import no_kernel
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.dispatch.selection import Selection
    from quantmux.runtime.context import Context

_SHAPE = "Shape and dtypes"
_POLICY = "Policy"


def _option(flag: str, text: str, panel: str = _SHAPE, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, metavar=metavar)


def explain(
    op: Annotated[
        str | None,
        typer.Argument(
            metavar="[OP]",
            help="linear, quantize, silu_mul_quantize, inverse_rope_quantize, rmsnorm_quantize, "
            "rope_quantize or relayout.",
            show_default=False,
        ),
    ] = None,
    *,
    scheme: Annotated[str | None, _option("--scheme", "Scheme of a linear: nvfp4, …")] = None,
    operand: Annotated[str | None, _option("--operand", "Operand that a producer makes.")] = None,
    n: Annotated[int | None, _option("--n", "N of a linear, row width of a producer.")] = None,
    k: Annotated[int | None, _option("--k", "K of a linear.")] = None,
    m: Annotated[int | None, _option("--m", "One number of rows; default: all.")] = None,
    in_dtype: Annotated[str | None, _option("--in-dtype", "bf16, fp16 or fp32.")] = None,
    out_dtype: Annotated[str | None, _option("--out-dtype", "bf16, fp16 or fp32.")] = None,
    bias: Annotated[bool, _option("--bias", "The linear has a bias.")] = False,
    contiguous_output: Annotated[
        bool, _option("--contiguous-output", "Rows of y must follow each other.")
    ] = False,
    layout: Annotated[str | None, _option("--layout", "Scale layout of a producer.")] = None,
    padded_n: Annotated[int | None, _option("--padded-n", "Stored row width.")] = None,
    heads: Annotated[int | None, _option("--heads", "Heads of a rotation.")] = None,
    head_dim: Annotated[int | None, _option("--head-dim", "Columns of a head.")] = None,
    rope_dim: Annotated[int | None, _option("--rope-dim", "Rotated columns of it.")] = None,
    groups: Annotated[int | None, _option("--groups", "Of inverse_rope_quantize.")] = None,
    rope_at: Annotated[str | None, _option("--rope-at", "first or last columns rotate.")] = None,
    interleaved: Annotated[
        bool, _option("--interleaved", "Pairs of rope_quantize are neighbours.")
    ] = False,
    static_scale: Annotated[
        float | None, _option("--static-scale", "Scale of rope_quantize known beforehand.")
    ] = None,
    norm_eps: Annotated[float | None, _option("--norm-eps", "Of rmsnorm_quantize.")] = None,
    fp32_weight: Annotated[
        bool, _option("--fp32-weight", "The weight of rmsnorm_quantize is fp32.")
    ] = False,
    source: Annotated[str | None, _option("--source", "Scale layout a relayout reads.")] = None,
    target: Annotated[str | None, _option("--target", "Scale layout a relayout writes.")] = None,
    config: Annotated[
        str | None,
        _option("--config", "The layer as JSON: a file, or text.", metavar="FILE|JSON"),
    ] = None,
    layer: Annotated[
        str | None, _option("--layer", "Layer name, for the rules of the policy.", _POLICY)
    ] = None,
    force: Annotated[
        str | None, _option("--force", "A backend or kernel that must be taken.", _POLICY)
    ] = None,
    deny: Annotated[
        list[str] | None, _option("--deny", "A kernel or backend never taken; repeatable.", _POLICY)
    ] = None,
    order: Annotated[
        str | None, _option("--order", "Backends, best first: triton,torch.", _POLICY)
    ] = None,
    allow_lossy: Annotated[
        str | None, _option("--allow-lossy", "forbid, warn or allow.", _POLICY)
    ] = None,
    device: DeviceName = None,
    installed_only: InstalledOnly = False,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell which kernels one layer would take, and the reason for every one that is not taken.

    Exit code 1 when nothing can serve.
    """
    asked = op_name(op) if op is not None else None
    options = {
        "scheme": scheme,
        "operand": operand,
        "n": n,
        "k": k,
        "in_dtype": in_dtype,
        "out_dtype": out_dtype,
        "bias": bias or None,
        "contiguous_output": contiguous_output or None,
        "layout": layout,
        "padded_n": padded_n,
        "heads": heads,
        "head_dim": head_dim,
        "rope_dim": rope_dim,
        "groups": groups,
        "rope_at": rope_at,
        "interleaved": interleaved or None,
        "static_scale": static_scale,
        "norm_eps": norm_eps,
        "fp32_weight": fp32_weight or None,
        "source": source,
        "target": target,
    }
    wanted = _config(asked, config, options)
    if m is not None and m < 0:
        raise ConfigError(f"--m is a number of rows, found {m}", code="usage")
    context = open_context(plugins, installed_only=installed_only)
    profile = find_device(device)
    choices = {"force": force, "deny": deny, "allow_lossy": allow_lossy}
    overrides = {name: value for name, value in choices.items() if value}
    if order is not None:
        overrides["order"] = [name.strip() for name in order.split(",") if name.strip()]
    selection = context.survey(wanted, profile, m=m, layer=layer, call_overrides=overrides or None)
    _answer(selection, context, m, as_json=as_json)


def _config(op: str | None, text: str | None, options: dict[str, Any]) -> Any:
    given = [name for name, value in options.items() if value is not None]
    if text is not None:
        if given:
            flags = " ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(
                f"--config describes the whole layer, and {flags} too",
                hint="leave one of them out",
                code="usage",
            )
        return config_from_json(text, op)
    if op is None:
        raise ConfigError(
            "explain needs an op, or --config",
            hint="run: quantmux explain linear --scheme nvfp4 --n 4096 --k 14336",
            code="usage",
        )
    return config_from_options(op, options)


def _answer(selection: Selection, context: Context, m: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json(selection.to_dict())
    else:
        show_selection(selection, m)
    if not selection.is_served:
        error = no_kernel(selection, context.inventory(selection.device), m)
        # the reasons of every kernel were printed above; here is what is left to say
        lines = [error.headline, *(f"  {fact}" for fact in error.facts if len(error.facts) == 1)]
        print_error("\n".join([*lines, *([f"  next: {error.hint}"] if error.hint else [])]))
        raise typer.Exit(1)
    if any(choice.tier == "weight_only" for choice in selection.ranges):
        warn("the activation operand is ignored (tier weight_only), which changes the numbers")
