"""doctor: what is here, what works, and what would make the rest work."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import typer

from quantmux._version import __version__
from quantmux.capability.detect import detect_devices
from quantmux.capability.evidence import DECLARED
from quantmux.capability.matrix import MARKS
from quantmux.capability.needs import find_tool, package_version
from quantmux.cli._options import AsJson, DeviceName, PluginsFile
from quantmux.cli._render import heading, out, print_json, state_text, table
from quantmux.cli._session import find_device, open_context
from quantmux.config.environment import KNOWN, unknown_variables
from quantmux.registry.ledger import Ledger, read_ledger
from quantmux.registry.user_folder import user_folder
from quantmux.runtime.quarantine_file import quarantine_problem

if TYPE_CHECKING:
    from quantmux.capability.device import DeviceProfile
    from quantmux.registry.manager import Registry
    from quantmux.registry.status import PluginRecord
    from quantmux.runtime.context import Context

_PACKAGES: Final = ("torch", "triton", "pydantic", "pluggy", "safetensors", "nvidia-ml-py")
_TOOLS: Final = ("nvcc", "ptxas")


def doctor(
    *, device: DeviceName = None, plugins: PluginsFile = None, as_json: AsJson = False
) -> None:
    """Show the environment, the devices and every plugin, with what is missing and what to do.

    Never touches the network and imports neither torch nor any backend's library. Exit code 0
    when at least one plugin works on the device, else 1.
    """
    context = open_context(plugins)
    profile = find_device(device)
    records = context.registry.plugins_on(profile)
    ledger = read_ledger(context.registry, profile, user_folder())
    report = _report(context.registry, profile, records, ledger)
    report["quarantine"] = _quarantine(context, profile)
    report["tuning"] = _tuning(context, profile)
    if as_json:
        print_json(report)
    else:
        _show(report, profile, records)
    if not report["usable"]:
        raise typer.Exit(1)


def _report(
    registry: Registry, device: DeviceProfile, records: tuple[PluginRecord, ...], ledger: Ledger
) -> dict[str, Any]:
    policy = registry.policy
    return {
        "quantmux": __version__,
        "environment": _environment(),
        "devices": [_device(d) for d in detect_devices()],
        "device": device.name,
        "plugins": [record.to_dict() for record in records],
        "kernels": len(registry.kernels),
        "evidence": _evidence(registry, ledger),
        "policy": {
            "file": str(policy.path) if policy.path else None,
            "order": list(policy.policy.order),
        },
        "variables": {name: os.environ[name] for name in KNOWN if name in os.environ},
        "unknown_variables": unknown_variables(),
        "usable": any(r.state == "ok" and r.kernels for r in records),
    }


def _quarantine(context: Context, device: DeviceProfile) -> dict[str, Any]:
    context.quarantine.look()
    held = context.quarantine.rejections(device.name, lambda k: context.ground(k, device))
    return {
        "kernels": {kernel: rejection.actual for kernel, rejection in sorted(held.items())},
        "problem": quarantine_problem(),
    }


def _tuning(context: Context, device: DeviceProfile) -> dict[str, Any]:
    inventory = context.inventory(device)
    return {
        "rows": len(inventory.tuning),
        "stale": inventory.tuning.stale,
        "problems": list(inventory.tuning_problems),
    }


def _evidence(registry: Registry, ledger: Ledger) -> dict[str, Any]:
    marks = Counter(ledger.evidence.get(k.id, DECLARED).mark for k in registry.kernels)
    return {
        "user_folder": str(user_folder()),
        "kernels": {mark: marks[mark] for mark in MARKS},
        "stale": {i: e.why_stale for i, e in sorted(ledger.evidence.items()) if e.stale},
        "failed": {
            i: ": ".join(filter(None, (e.text, e.note)))
            for i, e in sorted(ledger.evidence.items())
            if e.failed
        },
        "problems": list(ledger.problems),
        "unknown": list(ledger.unknown),
    }


def _environment() -> dict[str, str | None]:
    driver = next((d.driver for d in detect_devices() if d.driver), None)
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "quantmux": __version__,
        **{name: package_version(name) for name in _PACKAGES},
        "cuda_driver": driver,
        **{name: find_tool(name) for name in _TOOLS},
    }


def _device(device: DeviceProfile) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "arch": str(device.arch),
        "torch": device.torch_name,
        "memory_gib": device.memory_gib,
        "driver": device.driver,
    }


def _show(report: dict[str, Any], device: DeviceProfile, records: tuple[PluginRecord, ...]) -> None:
    console = out()
    console.print(heading("environment"))
    facts = table("", ("", "fold"))
    facts.show_header = False
    for name, value in report["environment"].items():
        facts.add_row(f"  {name}", value or "not found")
    for found in report["devices"]:
        facts.add_row(f"  {found['torch']}", f"{found['title']} ({found['arch']})")
    if not report["devices"]:
        facts.add_row("  GPU", "none found")
    facts.add_row("  policy file", report["policy"]["file"] or "the shipped plugins.toml")
    for name, value in report["variables"].items():
        facts.add_row(f"  {name}", value)
    console.print(facts)
    console.print(heading(f"plugins on {device.name}"))
    rows = table("  name", "status", ("kernels", "right"), "version", ("what it says", "fold"))
    for record in records:
        rows.add_row(
            f"  {record.name}",
            state_text(record.state),
            str(record.kernels),
            record.version or "-",
            "\n".join(_remarks(record)),
        )
    console.print(rows)
    _show_evidence(report["evidence"], device)
    _show_tuning(report["tuning"], device)
    _show_quarantine(report["quarantine"], device)
    for name, near in report["unknown_variables"].items():
        hint = f"; did you mean {near}?" if near else ""
        console.print(f"\n{name} is set, but nothing reads it{hint}")
    kernels = sum(r.kernels for r in records if r.state == "ok")
    console.print(
        f"\nusable: {kernels} kernels of working plugins"
        if report["usable"]
        else "\nnot usable: no plugin with kernels works here"
    )


def _show_tuning(tuning: dict[str, Any], device: DeviceProfile) -> None:
    if not any(tuning.values()):
        return
    console = out()
    console.print(heading(f"measured times on {device.name}"))
    facts = table("", ("", "fold"))
    facts.show_header = False
    facts.add_row("  rows", str(tuning["rows"]))
    if tuning["stale"]:
        facts.add_row("  stale", f"{tuning['stale']}: of other sources or another release")
    for line in tuning["problems"]:
        facts.add_row("  not counted", line)
    console.print(facts)


def _show_quarantine(quarantine: dict[str, Any], device: DeviceProfile) -> None:
    console = out()
    if quarantine["kernels"]:
        console.print(heading(f"quarantine on {device.name}"))
        rows = table("", ("", "fold"))
        rows.show_header = False
        for kernel, reason in quarantine["kernels"].items():
            rows.add_row(f"  {kernel}", reason)
        console.print(rows)
        console.print("  next: quantmux quarantine ls")
    if quarantine["problem"]:
        console.print(f"\nthe quarantine cannot be kept: {quarantine['problem']}")


def _show_evidence(evidence: dict[str, Any], device: DeviceProfile) -> None:
    console = out()
    console.print(heading(f"evidence on {device.name}"))
    counts = [f"{number} {mark}" for mark, number in evidence["kernels"].items() if number]
    facts = table("", ("", "fold"))
    facts.show_header = False
    facts.add_row("  kernels", ", ".join(counts) or "none")
    facts.add_row("  your folder", evidence["user_folder"])
    for mark in ("failed", "stale"):
        for kernel, text in evidence[mark].items():
            facts.add_row(f"  {mark}", f"{kernel}: {text}")
    for line in evidence["problems"]:
        facts.add_row("  not counted", line)
    for line in evidence["unknown"]:
        facts.add_row("  not used", line)
    console.print(facts)


def _remarks(record: PluginRecord) -> list[str]:
    lines = list(record.reasons) or [record.summary]
    lines += [f"{name}: {value}" for name, value in record.details.items() if record.kernels == 0]
    lines += list(record.notes)
    if record.hint:
        lines.append(f"next: {record.hint}")
    return [line for line in lines if line]
