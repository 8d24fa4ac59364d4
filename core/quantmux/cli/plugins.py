"""plugins: who is here; ``plugins show NAME`` tells what one of them offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.cli._options import AsJson, PluginsFile
from quantmux.cli._render import heading, out, print_json, state_text, table
from quantmux.cli._session import open_registry
from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from quantmux.capability.capability import Capability, OperandOffer
    from quantmux.registry.kernel_spec import KernelSpec
    from quantmux.registry.manager import Registry
    from quantmux.registry.status import PluginRecord


_ACTIONS = ("list", "show")


def plugins(
    action: Annotated[str, typer.Argument(metavar="[list|show]")] = "list",
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Plugin to show.", show_default=False)
    ] = None,
    *,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """List the plugins that were found, or show the kernels of one.

    Lists failed and disabled ones too, and asks no device: `doctor` tells what works here.
    """
    if action not in _ACTIONS:
        near = closest(action, _ACTIONS)
        raise ConfigError(
            f'plugins has no action "{action}"',
            facts=["actions: list, show NAME"],
            hint=f'did you mean "{near}"?' if near else f"run: quantmux plugins show {action}",
            code="usage",
        )
    if action == "list" and name is not None:
        raise ConfigError(
            f'plugins list takes no name, found "{name}"',
            hint=f"run: quantmux plugins show {name}",
            code="usage",
        )
    registry = open_registry(plugins)
    if action == "list":
        _list(registry, as_json=as_json)
        return
    if name is None:
        raise ConfigError(
            "plugins show needs the name of a plugin",
            facts=["here: " + ", ".join(r.name for r in registry.plugins)],
            code="usage",
        )
    record = registry.record(name)
    if record is None:
        known = [r.name for r in registry.plugins]
        near = closest(name, known)
        raise ConfigError(
            f'there is no plugin "{name}"',
            facts=["here: " + (", ".join(known) or "none")],
            hint=f'did you mean "{near}"?' if near else "run: quantmux plugins",
            code="unknown_name",
        )
    kernels = [k for k in registry.kernels if k.backend == name]
    if as_json:
        print_json({**record.to_dict(), "kernel_specs": [_kernel_dict(k) for k in kernels]})
    else:
        _show(record, kernels)


def _list(registry: Registry, *, as_json: bool) -> None:
    if as_json:
        print_json({"plugins": [record.to_dict() for record in registry.plugins]})
        return
    rows = table(
        "name", "distribution", "version", "api", "state", ("kernels", "right"), ("about", "fold")
    )
    for record in registry.plugins:
        rows.add_row(
            record.name,
            record.distribution or "-",
            record.version or "-",
            record.api or "-",
            state_text(record.state),
            str(record.kernels),
            "\n".join(record.reasons) or record.summary,
        )
    out().print(rows)


def _kernel_dict(spec: KernelSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "op": spec.op,
        "summary": spec.summary,
        "version": spec.version,
        "load": spec.load,
        "sources": list(spec.sources),
        "capability": spec.capability.model_dump(mode="json"),
    }


def _show(record: PluginRecord, kernels: list[KernelSpec]) -> None:
    console = out()
    facts = table("", ("", "fold"))
    facts.show_header = False
    for title, value in (
        ("plugin", record.name),
        ("state", record.state),
        ("distribution", record.distribution or "-"),
        ("version", record.version or "-"),
        ("api", record.api or "-"),
        ("about", record.summary),
        ("reasons", "\n".join(record.reasons)),
        ("next", record.hint or ""),
    ):
        if value:
            facts.add_row(title, state_text(value) if title == "state" else value)
    console.print(facts)
    for spec in kernels:
        console.print(heading(f"{spec.id}  ({spec.op})"))
        if spec.summary:
            console.print(f"  {spec.summary}")
        rows = table("", ("", "fold"))
        rows.show_header = False
        for title, value in _capability(spec.capability):
            rows.add_row(f"  {title}", value)
        console.print(rows)
    if not kernels:
        console.print("\nno kernels")


def _capability(c: Capability) -> list[tuple[str, str]]:
    rows = [("arch", " ".join(str(a) for a in c.arch))]
    for scheme in c.schemes:
        activation = "16 bit" if scheme.activation is None else _offer(scheme.activation)
        inside = ", quantized inside" if scheme.quantizes_inside else ""
        rows.append(("multiplies", f"{_offer(scheme.weight)} by {activation}{inside}"))
    rows += [("writes", f"{_offer(o)} as {' '.join(o.layouts)}") for o in c.produces]
    if c.relayouts:
        rows.append(("relays", ", ".join(f"{a} -> {b}" for a, b in c.relayouts)))
    rows.append(("dtypes", f"{' '.join(c.in_dtypes)} -> {' '.join(c.out_dtypes)}"))
    limits = [f"M {c.m_min}..{'any' if c.m_max is None else c.m_max}"]
    for title, multiple in (("M", c.m_multiple), ("N", c.align_n), ("K", c.align_k)):
        if multiple > 1:
            limits.append(f"{title} % {multiple} = 0")
    for title, multiple in (("N", c.pad_n_to), ("K", c.pad_k_to), ("M", c.pad_m_to)):
        if multiple > 1:
            limits.append(f"pads {title} to {multiple}")
    rows.append(("limits", ", ".join(limits)))
    if c.schemes:
        aligned = ", canonical where nothing is padded" if c.canonical_if_aligned else ""
        rows.append(("weights", c.weight_layout + aligned))
        bias = "taken" if c.takes_bias else "not taken"
        rows.append(("bias", f"{bias}; accumulation {' '.join(c.accumulations)}"))
    launches = "composite" if c.launches is None else str(c.launches)
    rows.append(("launches", launches))
    if c.needs:
        rows.append(("needs", ", ".join(str(need) for need in c.needs)))
    tags = sorted(c.tags) + (["reference"] if c.is_reference else [])
    tags += ["emulated"] if c.compute == "emulated" else []
    if tags:
        rows.append(("tags", " ".join(tags)))
    return rows


def _offer(offer: OperandOffer) -> str:
    block = "any block" if offer.block is None else f"{offer.block.rows}x{offer.block.cols}"
    extra: list[str] = [m for m in offer.scale_modes if m != "dynamic"]
    extra += [r for r in offer.roundings if r != "none"]
    return f"{offer.element}[{block}]" + (f" ({', '.join(extra)})" if extra else "")
