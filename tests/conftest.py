"""What holds for every test: nobody writes into, or reads from, the user's own folder."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_user_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path_factory.mktemp("user", numbered=True)))
