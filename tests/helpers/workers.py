"""Processes of inner runs, as forks of one that has loaded torch: a fresh one takes seconds."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from execnet.gateway_base import Popen2IO
from execnet.gateway_io import Popen2IOMaster

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "pytest"])


class Worker(Popen2IOMaster):
    """A worker, and what execnet writes to it and reads from it by."""

    def __init__(self, _: list[str], execmodel: Any) -> None:
        stdin, to_worker = FORKS.Pipe(duplex=False)
        from_worker, stdout = FORKS.Pipe(duplex=False)
        streams = (stdin, stdout, Connection(os.dup(2), readable=False))
        process = FORKS.Process(target=_work, args=(streams, {**os.environ}, str(Path.cwd())))
        process.daemon = True
        process.start()
        self.process = process
        ends = (
            os.fdopen(os.dup(to_worker.fileno()), "wb"),
            os.fdopen(os.dup(from_worker.fileno()), "rb"),
        )
        for end in (*streams, to_worker, from_worker):
            end.close()
        Popen2IO.__init__(self, *ends, execmodel)

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def start(
    arguments: Iterable[str], environment: Mapping[str, str], folder: Path, output: Path
) -> ForkServerProcess:
    """A run of pytest in a folder, as `python -m pytest`, that writes what it prints to a file."""
    process = FORKS.Process(
        target=_test, args=([*arguments], {**environment}, str(folder), str(output))
    )
    process.daemon = True
    process.start()
    return process


def _settle(environment: Mapping[str, str], folder: str) -> None:
    gc.freeze()  # what is loaded is left where it is
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


def _test(arguments: list[str], environment: Mapping[str, str], folder: str, output: str) -> None:
    import pytest

    _settle(environment, folder)
    with Path(output).open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.exit(pytest.main(arguments))


def _work(streams: tuple[Connection, ...], environment: Mapping[str, str], folder: str) -> None:
    """Be the interpreter that execnet has started: its first line says what it runs."""
    _settle(environment, folder)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.argv = ["-c"]
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
