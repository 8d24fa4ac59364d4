"""Where rows about kernels lie: in the plugins' own folders, and in the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from quantmux.registry.manager import Registry


def row_folders(registry: Registry, user: Path | None) -> list[tuple[set[str], Path]]:
    """Give every folder with the plugins whose it is, none for the user's, which comes last.

    Plugins that are single modules of one folder share it.
    """
    owners: dict[Path, set[str]] = {}
    for record in registry.plugins:
        folder = registry.folder(record.name) if record.is_usable else None
        if folder is not None:
            owners.setdefault(folder, set()).add(record.name)
    places = [(names, folder) for folder, names in owners.items()]
    return places if user is None else [*places, (set(), user)]
