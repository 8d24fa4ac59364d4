"""main: parse, run one verb, turn every error into a message and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
from typing import TYPE_CHECKING, Final

from quantmux.cli._logging import shown_logs
from quantmux.cli._render import print_error, print_json
from quantmux.cli._session import own_plugins
from quantmux.errors import ConfigError, QuantmuxError

if TYPE_CHECKING:
    from collections.abc import Sequence

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    A QuantmuxError becomes its message on stderr, never a traceback; with ``--json`` also
    ``{"error": {...}}`` on stdout. ``--debug``, anywhere, shows the traceback too.

    Args:
        argv: Arguments without the program's name; None takes those of the process.
    """
    from quantmux.cli.app import app

    args = list(sys.argv[1:] if argv is None else argv)
    _write_what_the_terminal_can()
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    with shown_logs(), own_plugins():
        try:
            app(args=args, prog_name="quantmux")
        except SystemExit as exit_:  # typer ends every command this way
            return _exit_code(exit_.code)
        except KeyboardInterrupt:
            return INTERRUPTED
        except QuantmuxError as error:
            _report(error, as_json="--json" in args, debug=debug)
            return USAGE if isinstance(error, ConfigError) else FAILED
        except Exception as error:  # noqa: BLE001 - a user is shown one line, not our stack
            _report_unforeseen(error, as_json="--json" in args, debug=debug)
            return FAILED
    return OK


def _write_what_the_terminal_can() -> None:
    """Have a stream that knows no ``×`` print ``?`` there; JSON is plain ASCII anyway."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _exit_code(code: object) -> int:
    if code is None:
        return OK
    return code if isinstance(code, int) else FAILED


def _report(error: QuantmuxError, *, as_json: bool, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    if as_json:
        print_json({"error": error.to_dict()})
    print_error(f"quantmux.{type(error).__name__}: {error}")


def _report_unforeseen(error: Exception, *, as_json: bool, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    if as_json:
        data = {"type": type(error).__name__, "code": "internal", "message": str(error)}
        print_json({"error": {**data, "facts": [], "hint": "run it again with --debug"}})
    hint = "" if debug else "\n  next: run it again with --debug, which shows where"
    print_error(f"{type(error).__name__}: {error}{hint}")
