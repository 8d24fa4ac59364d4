"""An environment of its own for packages from outside: fresh, with CI's packages in sight."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory):
    """Give a function that makes a virtual environment with nothing in it but what CI has."""

    def make(name):
        folder = tmp_path_factory.mktemp(name) / "venv"
        check([sys.executable, "-m", "venv", "--without-pip", folder])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "lib" / version / "site-packages"
        # torch and the rest are not downloaded again; addsitedir follows editable installs too
        there = sysconfig.get_path("purelib")
        (site / "of_ci.pth").write_text(f"import site; site.addsitedir({there!r})\n")
        return Environment(folder, site)

    return make


class Environment:
    """A virtual environment: its interpreter, its commands, and a place to keep what it writes."""

    def __init__(self, folder, site):
        self.folder, self.site = folder, site
        self.python = folder / "bin" / "python"
        # commands of CI's own environment, with this interpreter
        for name in ("quantmux", "pytest"):
            command = folder / "bin" / name
            module = {"quantmux": "quantmux.cli", "pytest": "pytest"}[name]
            entry = {"quantmux": "main", "pytest": "console_main"}[name]
            command.write_text(
                f"#!{self.python}\nimport sys\nfrom {module} import {entry}\nsys.exit({entry}())\n"
            )
            command.chmod(0o755)

    def variables(self, **more):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        return {**kept, "PATH": path, "VIRTUAL_ENV": str(self.folder), **more}

    def install(self, package):
        """Install a folder or a wheel as pip does, from nowhere but this machine."""
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python]
        check(
            [*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", package]
        )

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


def check(command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(out=done.stdout)
