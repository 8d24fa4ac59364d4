import os
import sys

import pytest

from quantmux.capability import needs as subject
from quantmux.capability.capability import Needs
from quantmux.capability.needs import assumptions, find_tool, module_exists, needs_rejections


@pytest.fixture(autouse=True)
def fresh():
    subject.forget()
    yield
    subject.forget()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package with metadata on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installing(name, version, module=None):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if module:
            (tmp_path / module).mkdir()
            (tmp_path / module / "__init__.py").write_text("raise RuntimeError('imported')\n")

    return installing


def package(version="", **fields):
    return Needs(kind="package", name="qm-probe-me", version=version, **fields)


def rejection(need):
    (found,) = needs_rejections([need])
    return found


def test_a_missing_package_is_a_rejection_with_the_command():
    found = rejection(package(">=2"))
    assert found.code == "needs_package"
    assert (found.field, found.required, found.actual) == ("qm-probe-me", ">=2", "not installed")
    assert found.hint == "pip install 'qm-probe-me>=2'"
    assert rejection(package(install="make it")).hint == "make it"


@pytest.mark.parametrize(
    ("wanted", "has", "fits"),
    [
        ("", "1.0", True),
        (">=2.8", "2.8.0", True),
        (">=2.8", "2.13.0+cpu", True),
        (">=2.8", "2.9.0.dev20260101", True),
        (">=2.8", "2.8.0.dev1", False),
        (">=2.8,<3", "3.0", False),
        (">=2.8", "2.7.1", False),
        (">=2.8", "not-a-version", False),
        (">>2", "2.0", False),
    ],
)
def test_versions_are_compared_as_pip_does(install, wanted, has, fits):
    install("qm-probe-me", has, "qm_probe_me")
    found = needs_rejections([package(wanted)])
    assert (found == ()) is fits
    if not fits:
        assert has in found[0].actual


def test_nothing_is_imported(install):
    install("qm-probe-me", "1.0", "qm_probe_me")
    assert needs_rejections([package(">=1")]) == ()
    assert "qm_probe_me" not in sys.modules


def test_a_bare_folder_is_not_the_library(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "qm_probe_me").mkdir()
    assert not module_exists("qm_probe_me")
    assert rejection(package()).actual == "not installed"


def test_a_part_of_a_name_that_packages_share_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "qm_shared" / "one").mkdir(parents=True)
    (tmp_path / "qm_shared" / "one" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "qm_shared" / "two.py").write_text("raise RuntimeError('imported')\n")
    assert module_exists("qm_shared.one")
    assert module_exists("qm_shared.two")
    assert not module_exists("qm_shared.three")
    assert not module_exists("qm_shared")


def test_metadata_without_the_module_is_not_enough(install):
    install("qm-probe-me", "1.0")
    assert rejection(package(">=1")).actual == "1.0, but no module qm_probe_me"


def test_the_module_may_have_another_name(install):
    install("qm-probe-me", "1.0", "qm_other")
    assert needs_rejections([package(">=1", import_name="qm_other")]) == ()
    assert needs_rejections([package(">=1", import_name="qm_other.inner")]) == ()


def test_a_module_without_metadata_fits_only_where_no_version_is_asked(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "qm_probe_me.py").write_text("")
    assert needs_rejections([package()]) == ()
    assert "unknown version" in rejection(package(">=1")).actual


def test_a_module_without_spec_does_not_raise(monkeypatch):
    broken = type(sys)("qm_probe_me")
    broken.__spec__ = None
    monkeypatch.setitem(sys.modules, "qm_probe_me", broken)
    assert not module_exists("qm_probe_me")


def test_tools_are_found_on_the_path_and_in_cuda_home(tmp_path, monkeypatch):
    tool = Needs(kind="tool", name="qm-nvcc", install="install the toolkit")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    found = rejection(tool)
    assert (found.code, found.hint) == ("needs_tool", "install the toolkit")
    program = tmp_path / "bin" / "qm-nvcc"
    program.parent.mkdir()
    program.write_text("")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    subject.forget()
    assert find_tool("qm-nvcc") is None  # there, but not a program
    program.chmod(0o755)
    subject.forget()
    assert find_tool("qm-nvcc") == str(program)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", os.pathsep.join([str(program.parent), os.environ["PATH"]]))
    subject.forget()
    assert needs_rejections([tool]) == ()


def test_a_named_profile_assumes_and_says_so():
    needs = [package(">=2"), Needs(kind="tool", name="qm-nvcc")]
    assert needs_rejections(needs, device_is_present=False) == ()
    assert assumptions(needs, device_is_present=False) == (
        "qm-probe-me>=2 is installed",
        "qm-nvcc is installed",
    )
    asked = {"device_is_present": False, "installed_only": True}
    assert [r.code for r in needs_rejections(needs, **asked)] == ["needs_package", "needs_tool"]
    assert assumptions(needs, **asked) == ()
    assert assumptions(needs, device_is_present=True) == ()
