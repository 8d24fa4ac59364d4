"""quarantine: the kernels that are kept away on this machine, and letting them be tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmux.capability.detect import HERE_CPU, detect_devices
from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._render import out, print_json, table, warn
from quantmux.cli._session import find_device, open_registry
from quantmux.config._base import closest
from quantmux.errors import ConfigError
from quantmux.runtime.quarantine import Quarantine
from quantmux.runtime.quarantine_file import QuarantineFile
from quantmux.runtime.quarantine_ground import ground_here

if TYPE_CHECKING:
    from quantmux.registry.manager import Registry
    from quantmux.runtime.quarantine import Quarantined

_ACTIONS = ("ls", "clear")


def quarantine(
    action: Annotated[str, typer.Argument(metavar="[ls|clear]")] = "ls",
    kernels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KERNEL]...", help="Kernels to clear.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Clear every kernel.")] = False,
    device: DeviceName = None,
    plugins: PluginsFile = None,
    as_json: AsJson = False,
) -> None:
    """List the kernels that failed to build or to agree here, or let them be tried again.

    An entry holds for one device, driver, set of versions and state of the kernel's sources.
    Processes that run see a change within a second. `--device` narrows either action.
    """
    names = tuple(kernels or ())
    _check_usage(action, names, every=every)
    registry = open_registry(plugins)
    store = QuarantineFile()
    kept = Quarantine(store)
    where = _device_name(device, kept.entries())
    if action == "ls":
        entries = [e for e in kept.entries() if where in (None, e.device)]
        _list(entries, registry, store, as_json=as_json)
        return
    for name in names:
        _check_known(name, kept.entries(), registry)
    if every:
        gone = kept.clear(where)
    else:
        gone = tuple(entry for name in dict.fromkeys(names) for entry in kept.lift(name, where))
    if store.problem:
        raise ConfigError(
            "the quarantine cannot be changed",
            facts=[store.problem],
            hint=f"delete {store.file.path}, or make it writable",
            code="quarantine_write",
        )
    _cleared(gone, as_json=as_json)


def _check_usage(action: str, names: tuple[str, ...], *, every: bool) -> None:
    if action not in _ACTIONS:
        near = closest(action, _ACTIONS)
        raise ConfigError(
            f'quarantine has no action "{action}"',
            facts=["actions: ls, clear KERNEL..., clear --all"],
            hint=f'did you mean "{near}"?' if near else "run: quantmux quarantine ls",
            code="usage",
        )
    if action == "ls" and (names or every):
        given = "--all" if every else names[0]
        raise ConfigError(
            f"quarantine ls takes no {given}",
            hint=f"run: quantmux quarantine clear {given}",
            code="usage",
        )
    if action == "clear" and bool(names) is every:
        raise ConfigError(
            "quarantine clear takes kernels, or --all" + (", not both" if every else ""),
            hint="run: quantmux quarantine ls",
            code="usage",
        )


def _device_name(name: str | None, entries: tuple[Quarantined, ...]) -> str | None:
    """Give the name under which a device's entries are kept; that of another machine counts."""
    if name is None or any(entry.device == name for entry in entries):
        return name
    return find_device(name).name


def _check_known(name: str, entries: tuple[Quarantined, ...], registry: Registry) -> None:
    held = [entry.kernel for entry in entries]
    known = [*held, *(spec.id for spec in registry.kernels)]
    if name in known:
        return
    near = closest(name, held) or closest(name, known)
    raise ConfigError(
        f'there is no kernel "{name}"',
        facts=["in quarantine: " + (", ".join(sorted(set(held))) or "none")],
        hint=f'did you mean "{near}"?' if near else "run: quantmux quarantine ls",
        code="kernel",
    )


def _why_not(entry: Quarantined, registry: Registry) -> str:
    """Say why an entry keeps nothing away here today; "" when it does."""
    devices = (*detect_devices(), HERE_CPU)
    device = next((d for d in devices if d.name == entry.device), None)
    spec = next((s for s in registry.kernels if s.id == entry.kernel), None)
    if spec is None:
        return "no such kernel here"
    if device is None:
        return "no such device here"
    return entry.ground.change(ground_here(spec, registry, device))


def _list(
    entries: list[Quarantined], registry: Registry, store: QuarantineFile, *, as_json: bool
) -> None:
    reasons = [_why_not(entry, registry) for entry in entries]
    if as_json:
        rows = [
            {**entry.to_dict(), "holds": not why, "why_not": why}
            for entry, why in zip(entries, reasons, strict=True)
        ]
        kept: dict[str, Any] = {"file": str(store.file.path), "problem": store.problem}
        print_json({**kept, "entries": rows})
        return
    console = out()
    if not entries:
        console.print("nothing is in quarantine")
    else:
        rows_ = table("kernel", "device", "since", "expires", ("holds", "fold"), ("reason", "fold"))
        for entry, why in zip(entries, reasons, strict=True):
            rows_.add_row(
                entry.kernel,
                entry.device,
                entry.since_text,
                entry.expires_text,
                f"no longer applies: {why}" if why else "yes",
                entry.reason,
            )
        console.print(rows_)
    if store.problem:
        warn(store.problem)


def _cleared(gone: tuple[Quarantined, ...], *, as_json: bool) -> None:
    if as_json:
        print_json({"cleared": [entry.to_dict() for entry in gone]})
        return
    console = out()
    for entry in gone:
        console.print(f"{entry.kernel} may be tried again on {entry.device}")
    if not gone:
        console.print("nothing of that is in quarantine")
