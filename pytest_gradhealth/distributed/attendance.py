"""Where each process is in its tests, so that none waits for one that will not come.

The body of a test and its teardown are parts of their own: a check in one never meets a check in
the other. A process says which part it has come to, which says that it has left those before.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.context import current
from pytest_gradhealth.tensors.modules import process_group

if TYPE_CHECKING:
    from pytest_gradhealth.context import Context


def store_of(dist: Any) -> Any:
    """The store that the process group was made with."""
    return dist.distributed_c10d._get_default_store()


def tell(context: Context, *, last: bool) -> None:
    """Tell the processes that may wait for this one which part of a test it has come to.

    Of the `last` one it is told that no other test follows.
    """
    global _joined
    dist = process_group()
    if dist is not None and dist.get_world_size() > 1:
        _joined = store_of(dist), dist.get_rank()
    if _joined is None:
        return
    store, rank = _joined
    with suppress(RuntimeError):  # the store ends with the process that keeps it
        announce(store, rank, context)
        store.set(_key("at", rank, _name_of(context)), json.dumps(context.part))
        if last:
            store.set(_key("over", rank), "")


def forget() -> None:
    """Keep nothing of a process group that a test may have ended."""
    global _joined
    _joined = None


def announce(store: Any, rank: int, context: Context) -> None:
    """Say once which tests this process has: where it lacks one, it is not waited for in it."""
    key = _key("tests", rank)
    if not store.check([key]):
        store.set(key, json.dumps(list(map(_plain, context.tests))))


def part_of(context: Context | None) -> str:
    """The part of a test that is run: the same on all ranks that run it."""
    return "" if context is None else "{}@{}.{}".format(_plain(context.nodeid), *context.part)


def gone(store: Any, rank: int) -> str:
    """Why a rank will never come to the part of the test that this one is in, "" if it may."""
    context = current()
    if context is None:
        return ""
    name = _name_of(context)
    at, over = _key("at", rank, name), _key("over", rank)
    if store.check([at]) and tuple(json.loads(store.get(at))) > context.part:
        return "left this test without coming to this check"
    if store.check([over]):
        return "has ended its run without coming to this check"
    tests = _key("tests", rank)
    if store.check([tests]) and name not in _tests(store.get(tests)):
        return "does not have this test"
    return ""


@lru_cache(maxsize=8)
def _tests(told: bytes) -> frozenset[str]:
    return frozenset(json.loads(told))


def _key(what: str, rank: int, test: str = "") -> str:
    return f"gradhealth/{what}/{rank}/{test}"


def _plain(nodeid: str) -> str:
    return nodeid.encode("utf-8", "backslashreplace").decode()


def _name_of(context: Context) -> str:
    return _plain(context.nodeid)


#: The store, and this process's rank in it: a teardown may end the process group before it is over.
_joined: tuple[Any, int] | None = None
