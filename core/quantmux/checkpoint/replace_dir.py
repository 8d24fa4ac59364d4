"""A directory that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quantmux.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_target(out: Path, *, force: bool, source: Path | None = None) -> None:
    """Check that a checkpoint may be written to ``out``, before any work is done.

    ``force`` replaces another checkpoint only; it is no licence to delete a home directory.

    Raises:
        ConfigError: Something is there (code ``exists``), or ``out`` and the source are one
            (code ``same_directory``).
    """
    if source is not None:
        a, b = out.resolve(), source.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise ConfigError(
                f"cannot write to {out}: it is, holds or lies in the source",
                facts={"source": source},
                hint="write to another directory",
                code="same_directory",
            )
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise ConfigError(
            f"cannot write to {out}: a file is there", hint="name a directory", code="exists"
        )
    names = [p.name for p in out.iterdir()]
    if not names:
        return
    if not force:
        raise ConfigError(
            f"cannot write to {out}: it exists and is not empty",
            facts=[f"{len(names)} files, {min(names)} among them"],
            hint="name another directory, or replace it with force=True (--force)",
            code="exists",
        )
    if not any(name == "config.json" or name.endswith(".safetensors") for name in names):
        raise ConfigError(
            f"will not replace {out}: it holds no checkpoint",
            facts=[f"{len(names)} files, {min(names)} among them"],
            hint="force replaces checkpoints only; remove the directory yourself",
            code="exists",
        )


@contextmanager
def new_directory(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of ``out`` to fill; on success it becomes ``out``.

    On any exception the sibling is removed, and what was at ``out`` is untouched.

    Raises:
        ConfigError: As `check_target`.
        CheckpointError: The file system refused; code ``unwritable``.
    """
    check_target(out, force=force)
    out = out.resolve()  # a link keeps pointing where it points
    tag = uuid.uuid4().hex[:8]
    partial = out.parent / f".{out.name}.{tag}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    except OSError as error:
        raise _unwritable(out, error) from error
    try:
        yield partial
        for folder, _, files in os.walk(partial):
            for name in files:
                _sync(os.path.join(folder, name))  # noqa: PTH118 - os.walk gives strings
            _sync(folder)
        _swap(partial, out, out.parent / f".{out.name}.{tag}.old", force=force)
        _sync(out.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _unwritable(out, error) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _swap(partial: Path, out: Path, old: Path, *, force: bool) -> None:
    check_target(out, force=force)  # it may have appeared while we were writing
    if not out.exists() or not any(out.iterdir()):
        partial.rename(out)
        return
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path | str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unwritable(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {out}",
        facts=[str(error)],
        hint="nothing was written; check space and permissions",
        code="unwritable",
    )
