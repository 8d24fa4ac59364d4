"""The real FlashInfer where it is installed, and devices that are not here."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from quantmux.capability.arch import Arch
from quantmux.capability.device import DeviceProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from tests.backends.flashinfer.strict_fake import Fake


@pytest.fixture(scope="session", autouse=True)
def own_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what FlashInfer writes out of the home directory; on a GPU its modules are wanted."""
    names = ("FLASHINFER_WORKSPACE_BASE", "TRTLLM_DG_CACHE_DIR")
    new = [] if torch.cuda.is_available() else [name for name in names if name not in os.environ]
    for name in new:
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    yield
    for name in new:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def installed() -> ModuleType:
    """Give the real FlashInfer, or skip; where it must be here (.ci/run), fail."""
    if find_spec("flashinfer") is None:
        missing = pytest.fail if os.environ.get("REQUIRE_FLASHINFER") else pytest.skip
        missing("flashinfer is not installed")
    from quantmux_flashinfer.library import loading

    return loading.flashinfer()


@pytest.fixture(scope="session")
def device_of() -> Callable[[int], DeviceProfile]:
    """Give ``make(sm)``: a device of that compute capability, said to be here."""

    def make(sm: int) -> DeviceProfile:
        arch = Arch.parse(str(sm))
        return DeviceProfile(name=f"sm{sm}", title=f"sm {sm}", arch=arch, is_present=True, index=0)

    return make


@pytest.fixture
def fake_gpu(
    installed: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Fake]]:
    """Give ``pretend(sm)``: the real FlashInfer on a GPU that is not here; once a test."""
    from tests.backends.flashinfer import strict_fake

    del installed
    yield lambda sm: strict_fake.pretend(sm, monkeypatch)
    monkeypatch.undo()
    strict_fake.forget_cached()


@pytest.fixture
def fake_with_producers(
    fake_gpu: Callable[[int], Fake], monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Fake]:
    """Give ``pretend(sm)``: as `fake_gpu`, with stand-ins for the producers; once a test."""
    from tests.backends.flashinfer import producers_fake, strict_fake_producers

    def pretend(sm: int) -> Fake:
        monkeypatch.setattr(strict_fake_producers, "COMPILED", producers_fake.COMPILED)
        monkeypatch.setattr(strict_fake_producers, "REPLACED", {})
        fake = fake_gpu(sm)
        producers_fake.pretend_cute_dsl(fake, monkeypatch)
        return fake

    return pretend
