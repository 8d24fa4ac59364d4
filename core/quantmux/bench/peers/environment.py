"""A peer in a process and an environment of its own: the same cases, protocol and numbers there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import quantmux
from quantmux.config._base import closest
from quantmux.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantmux.bench.effort import Effort
    from quantmux.bench.rows import BenchCase
    from quantmux.capability.device import DeviceProfile

WORKER: Final = "quantmux.bench.peers.worker"
_TIMEOUT_S: Final = 1800


@dataclass(frozen=True, slots=True)
class PeerEnv:
    """Where a peer lives.

    Attributes:
        peer: Its name.
        place: A folder that comes first on the path, or a Python interpreter that can import
            quantmux's dependencies.
    """

    peer: str
    place: Path

    @classmethod
    def parse(cls, text: str, known: Sequence[str]) -> PeerEnv:
        """Read ``deepgemm=/path/to/folder-or-python``.

        Raises:
            ConfigError: It is not of that form, the peer is not known or nothing is there.
        """
        peer, equals, place = text.partition("=")
        if not equals or not place:
            raise ConfigError(
                "--peer-env names a peer and where it is",
                facts={"need": "PEER=FOLDER or PEER=PYTHON", "found": text},
                code="usage",
            )
        if peer not in known:
            near = closest(peer, known)
            raise ConfigError(
                f'there is no peer "{peer}"',
                facts=["peers: " + " ".join(known)],
                hint=f'did you mean "{near}"?' if near else None,
                code="usage",
            )
        path = Path(place).expanduser()
        if not path.exists():
            raise ConfigError(f"--peer-env {peer}: there is nothing at {path}", code="usage")
        return cls(peer, path)

    @property
    def python(self) -> str:
        """The interpreter."""
        return sys.executable if self.place.is_dir() else str(self.place)

    @property
    def path(self) -> str:
        """``PYTHONPATH`` of the process."""
        own = str(Path(quantmux.__file__).parents[1])
        if not self.place.is_dir():
            return own
        given = os.environ.get("PYTHONPATH", "")
        return os.pathsep.join(part for part in (str(self.place), own, given) if part)


def run_there(
    env: PeerEnv,
    cases: Sequence[BenchCase],
    device: DeviceProfile,
    effort: Effort,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Give the report of a peer's process as data, or ``{"error": one line}``.

    Args:
        env: Where the peer lives.
        cases: What to measure.
        device: A device that is here.
        effort: As in this process, seed included.
        quick: Ceilings likewise.
    """
    order = {
        "peers": [env.peer],
        "device": device.torch_name,
        "effort": asdict(effort),
        "quick": quick,
        "cases": [{"config": c.config.model_dump(mode="json"), "m": c.m} for c in cases],
    }
    with tempfile.TemporaryDirectory(prefix="quantmux-bench-") as folder:
        asked, answer = Path(folder, "order.json"), Path(folder, "report.json")
        asked.write_text(json.dumps(order), encoding="utf-8")
        try:
            done = subprocess.run(
                [env.python, "-m", WORKER, str(asked), str(answer)],
                env={**os.environ, "PYTHONPATH": env.path},
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"error": f"{type(error).__name__}: {error}"}
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return {"error": f"exit code {done.returncode}: {last}"}
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found
