"""What holds for every test: nobody writes into, or reads from, the user's own folder."""

from __future__ import annotations

import signal

import pytest

# A shell that starts the tests with "&" has SIGINT ignored, and so has every process after it: what
# is asked about Ctrl-C would then be asked of programs that were told to take no notice of it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_user_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTMUX_CACHE_DIR", str(tmp_path_factory.mktemp("user", numbered=True)))
