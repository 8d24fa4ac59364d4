"""Files of rows about one device: ``<device>.json`` is ``{"schema", "device", "rows": [...]}``.

Evidence and measured times are kept in them, by plugins and by users. They are read without trust,
and written whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantmux.errors import ConfigError, QuantmuxError
from quantmux.registry.user_folder import user_folder

if TYPE_CHECKING:
    import logging

_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")


@dataclass(frozen=True, slots=True)
class Head:
    """What a file of rows says of itself.

    Attributes:
        rows: As they stand there, none of them looked at.
        problem: Why none of them counts, one line without the file's name; "" when they may.
        is_newer: It is of a later schema: another version's, not broken.
    """

    rows: list[Any] = field(default_factory=list)
    problem: str = ""
    is_newer: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of rows.

    Attributes:
        folder: Where they lie in a plugin's folder and in the user's: ``evidence``.
        title: How messages call them: ``evidence``, ``measured times``.
        log: Where warnings go.
    """

    folder: str
    title: str
    log: logging.Logger

    @property
    def code(self) -> str:
        """Code of the errors of writing."""
        return f"{self.folder}_write"


def device_file(folder: Path, device: str) -> Path | None:
    """Give where a folder keeps the rows of a device; None when no file can be called so."""
    return folder / f"{device}.json" if _NAME.match(device) else None


def read_head(text: str, device: str, schema: int) -> Head:
    """Look at the text of a file of rows.

    Args:
        text: Content of the file.
        device: Device of the file's name.
        schema: Number of the format that the caller reads.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Head(problem=f"it is no JSON, perhaps cut short: {error}")
    if not isinstance(data, dict) or not isinstance(data.get("rows"), list):
        return Head(problem='it is not {"schema", "device", "rows": [...]}')
    found = data.get("schema")
    if type(found) is not int or found != schema:
        problem = f"it is of schema {found!r}, this version reads {schema}"
        return Head(problem=problem, is_newer=type(found) is int and found > schema)
    if data.get("device") != device:
        return Head(problem=f'it says "device": "{data.get("device")}", its name says {device}')
    return Head(data["rows"])


@contextlib.contextmanager
def rewriting(folder: Path, device: str, kind: Kind) -> Iterator[Path]:
    """Hold a device's file of rows against other writers; gives the file.

    Raises:
        ConfigError: The device's name is no name.
        QuantmuxError: The folder cannot be written; what stood there stands.
    """
    file = device_file(folder, device)
    if file is None:
        raise ConfigError(f'"{device}" is no device name', code="device")
    try:
        with locked(file):
            yield file
    except OSError as error:
        own = user_folder() / kind.folder
        hint = f"record into your own folder: {own}"
        if folder == own:
            hint = "name a folder that can be written: QUANTMUX_CACHE_DIR, or --record-to FOLDER"
        raise QuantmuxError(
            f"{kind.title} of {device} cannot be written",
            facts={"file": file, "reason": error.strerror or error},
            hint=hint,
            code=kind.code,
        ) from error


def kept_text(file: Path) -> str | None:
    """Give the text to lay rows over, read anew under the lock; None when there is no file."""
    try:
        return file.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def spare(file: Path, problems: tuple[str, ...], *, is_newer: bool, kind: Kind) -> None:
    """See to it that nothing is lost of a file about to be rewritten.

    Raises:
        QuantmuxError: It is kept by a later version.
    """
    if is_newer:
        raise QuantmuxError(
            f"{kind.title} of {file.stem}: the file is kept by a later version of quantmux",
            facts=[f"{file}: {problems[0]}"],
            hint="update quantmux, or record into another folder",
            code=kind.code,
        )
    if problems:
        aside = set_aside(file)
        kind.log.warning("%s was kept as %s: %s", file, aside.name, "; ".join(problems))


def tell(file: Path, problems: tuple[str, ...], told: set[Path], kind: Kind) -> None:
    """Warn of a file that does not count, or of which some does not; once each, by ``told``."""
    if problems and file not in told:
        told.add(file)
        first, *others = problems
        more = f" (and {len(others)} more)" if others else ""
        kind.log.warning("%s, %s: does not count: %s%s", kind.title, file, first, more)


def reason_of(error: Exception) -> str:
    """Give why a file cannot be read, one line."""
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock that writers of a file share; the lock lies hidden beside it.

    Raises:
        OSError: The folder cannot be made or written.
    """
    from filelock import FileLock

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        yield


def write_whole(file: Path, text: str) -> None:
    """Put a text in the place of a file, whole or not at all.

    Raises:
        OSError: It could not be written; what stood there stands.
    """
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)  # mkstemp's are for their owner only, a package's are for all
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def set_aside(file: Path) -> Path:
    """Copy a file beside itself as ``<name>.bad-<n>``, so that nothing is lost; gives the copy.

    Raises:
        OSError: It could not be copied.
    """
    content = file.read_bytes()
    for n in range(1, 10_000):
        aside = file.with_name(f"{file.name}.bad-{n}")
        try:
            with aside.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            continue
        return aside
    raise OSError(f"{file.name}.bad-1 … bad-9999 all exist")
