"""What a sweep and its workers write to each other: one JSON object a line."""

from __future__ import annotations

import base64
import json
import math
import pickle
from typing import TYPE_CHECKING, Any, Final

from quantmux.testing.cell import Outcome, Verdict

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

MARK: Final = b"\x1e\n"
"""What a worker prints before each cell: the record separator of ASCII, on a line."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Give a message as a line."""
    return json.dumps(message, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Give the message of a line.

    Raises:
        ValueError: It is no message.
    """
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("a message is a JSON object")  # noqa: TRY004 - as json does
    return found


def send(channel: socket.socket, message: Mapping[str, Any]) -> None:
    """Write a message as a whole.

    Raises:
        OSError: The other end is gone.
    """
    channel.sendall(encode(message))


def pack(value: Any) -> str:
    """Give a value of ours (cells, a device) as text. Only what a parent sends is ever unpacked."""
    return base64.b85encode(pickle.dumps(value)).decode()


def unpack(text: str) -> Any:
    """Give back what `pack` has packed."""
    return pickle.loads(base64.b85decode(text))  # noqa: S301 - from our own parent


def pack_outcome(outcome: Outcome) -> dict[str, Any]:
    """Give an outcome as JSON-ready data; an error that is no number becomes its name."""
    data = outcome.to_dict()
    error = outcome.error
    if error is not None and not math.isfinite(error):
        data["error"] = repr(float(error))
    return data


def unpack_outcome(data: Mapping[str, Any]) -> Outcome:
    """Give the outcome back; keys of later versions are left out.

    Raises:
        ValueError: It is none.
    """
    try:
        error = data.get("error")
        return Outcome(
            Verdict(data["verdict"]),
            str(data.get("reason", "")),
            str(data.get("code", "")),
            None if error is None else float(error),
            float(data.get("seconds", 0.0)),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an outcome: {error}") from error
