"""The thread that a self-check runs in: what ends it is told, whatever it is."""

import pytest

from quantmux.capability.detect import resolve_device
from quantmux.errors import RunError
from quantmux.runtime.self_check_run import apart


class Unusual(BaseException):
    """What no handler of Exception sees, as asyncio's CancelledError is none."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, Unusual, GeneratorExit])
def test_what_is_no_exception_is_named_as_the_reason(raised):
    def ends():
        raise raised

    # no signal reaches that thread, so that an interrupt too is the kernel's own
    with pytest.raises(RunError, match=raised.__name__):
        apart(resolve_device("cpu"), ends)


def test_what_exits_the_program_is_handed_on():
    def ends():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        apart(resolve_device("cpu"), ends)
