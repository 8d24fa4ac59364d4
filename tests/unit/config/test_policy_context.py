import asyncio
import threading

import pytest

from quantmux.config import Policy, current_context, use_policy
from quantmux.errors import ConfigError


def test_a_block_sets_and_restores():
    assert current_context() is None
    with use_policy(force="torch") as effective:
        assert current_context() == effective == Policy(force="torch")
    assert current_context() is None


def test_blocks_nest_key_by_key():
    with use_policy(force="torch", deny=["acme"]):
        with use_policy(deny=["triton"]):
            assert current_context() == Policy(force="torch", deny=["triton"])
        assert current_context() == Policy(force="torch", deny=["acme"])


def test_settings_go_over_a_whole_policy():
    with use_policy(Policy(force="torch", weight_copies=2), force="triton"):
        assert current_context() == Policy(force="triton", weight_copies=2)


def test_an_error_inside_restores_too():
    with pytest.raises(RuntimeError, match="inside"), use_policy(force="torch"):
        raise RuntimeError("inside")
    assert current_context() is None


def test_threads_do_not_see_each_others_blocks():
    seen = []
    with use_policy(force="torch"):
        thread = threading.Thread(target=lambda: seen.append(current_context()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_tasks_keep_their_own_blocks():
    async def one(name, entered, go_on):
        with use_policy(force=name):
            entered.set()
            await go_on.wait()
            return current_context().force

    async def both():
        go_on = asyncio.Event()
        entered = [asyncio.Event(), asyncio.Event()]
        tasks = [
            asyncio.create_task(one(name, event, go_on))
            for name, event in zip(("torch", "triton"), entered, strict=True)
        ]
        for event in entered:
            await event.wait()
        assert current_context() is None
        go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(both()) == ["torch", "triton"]


def test_refuses_plugins_and_unknown_keys():
    with pytest.raises(ConfigError, match="cannot set plugins"), use_policy(plugins={}):
        pass
    with pytest.raises(ConfigError, match='did you mean "deny"'), use_policy(denied=["x"]):
        pass
    assert current_context() is None
