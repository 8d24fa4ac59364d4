"""The pytest plugin: options and summary of the conformance suite, and nothing for anybody else.

It is loaded by every pytest that has quantmux installed, so it imports nothing and adds no option
until the suite is asked for: ``pytest --pyargs quantmux.testing.suite --backend NAME``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

SUITE: Final = "quantmux.testing.suite"

_OPTIONS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("backend", {"action": "append", "metavar": "NAME", "help": "backend to prove; repeatable"}),
    ("device", {"default": "auto", "metavar": "D", "help": "cpu, cuda, cuda:N, auto (default)"}),
    ("op", {"action": "append", "metavar": "OP", "help": "kernels of this op only; repeatable"}),
    ("kernel", {"action": "append", "metavar": "ID", "help": "this kernel only; repeatable"}),
    ("check", {"action": "append", "metavar": "NAME", "help": "this check only; repeatable"}),
    ("seed", {"type": int, "default": 0, "metavar": "N", "help": "of the inputs (default 0)"}),
    ("small", {"action": "store_true", "help": "leave out shapes of real layers"}),
    (
        "record",
        {
            "nargs": "?",
            "const": "user",
            "metavar": "FOLDER",
            "help": "write evidence: into your user folder, 'package' (the backend's), or FOLDER",
        },
    ),
    ("report", {"metavar": "FILE", "help": "write every outcome as JSON"}),
)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, None, None]:
    """Add the options when the suite is asked for, after those of everybody's conftest.

    Each is called ``--quantmux-NAME`` too, for who has another ``--NAME``.
    """
    yield
    if not any(_names_suite(arg) for arg in args):
        return
    # pytest has no public way to ask for the names in use, and two of one name end the run
    groups = [*parser._groups, parser._anonymous]  # noqa: SLF001
    taken = {name for group in groups for option in group.options for name in option.names()}
    group = parser.getgroup("quantmux", "quantmux: proof of a backend's kernels")
    for name, settings in _OPTIONS:
        names = [f"--{name}", f"--quantmux-{name}"]
        if names[0] in taken:
            if any(arg.partition("=")[0] == names[0] for arg in args):
                raise pytest.UsageError(
                    f"{names[0]} belongs to another plugin or conftest here: "
                    f"use {names[1]} for the suite"
                )
            del names[0]
        group.addoption(*names, dest=f"quantmux_{name}", **settings)
    early_config.stash[_ASKED] = True


_ASKED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Look at what was asked for, and give one clear error where it cannot be had."""
    if not config.stash.get(_ASKED, False) or config.getoption("help"):
        return
    from quantmux.testing.pytest_suite import Suite

    config.pluginmanager.register(Suite(config), "quantmux-suite")


def _names_suite(arg: str) -> bool:
    """Tell whether an argument names the suite: as a package, or by its path."""
    plain = arg.partition("::")[0].replace("\\", "/").rstrip("/")
    place = SUITE.replace(".", "/")
    return plain == SUITE or plain.startswith(SUITE + ".") or f"/{place}" in f"/{plain}"
