"""An environment of its own for packages from outside: fresh, with CI's packages in sight."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory):
    """Give a function that makes a virtual environment with quantmux in it and nothing else."""

    def make(name):
        folder = tmp_path_factory.mktemp(name) / "venv"
        check([sys.executable, "-m", "venv", "--without-pip", folder])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "lib" / version / "site-packages"
        # torch and the rest are not downloaded again; addsitedir follows editable installs too
        there = sysconfig.get_path("purelib")
        (site / "of_ci.pth").write_text(f"import site; site.addsitedir({there!r})\n")
        made = Environment(folder)
        # its own copy, with the entry points of today; CI's own may be of before they changed
        made.install(ROOT)
        return made

    return make


class Environment:
    """A virtual environment: its interpreter, and the variables under which commands use it."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / "bin" / "python"

    def variables(self, **more):
        """Give variables with which `python`, `pip` and `quantmux` are this environment's."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        offline = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_IGNORE_INSTALLED": "1",  # never touch what lies in CI's environment
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's spelling of: without isolation
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
        }
        return {**kept, **offline, "PATH": path, "VIRTUAL_ENV": str(self.folder), **more}

    def install(self, *what):
        """Install a folder or a wheel as pip does, from nowhere but this machine."""
        check([self.python, "-m", "pip", "install", "--quiet", *what], env=self.variables())

    def run(self, *arguments, **options):
        return subprocess.run(
            [self.python, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env=self.variables(),
            **options,
        )


def check(command, **options):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
