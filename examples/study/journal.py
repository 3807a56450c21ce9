"""Results as lines of JSON, one per key, so that a run can be stopped and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

Record = dict[str, Any]


def read(path: Path) -> dict[str, Record]:
    """Return the records by key; a last line that was cut off is left out."""
    records: dict[str, Record] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records[record["key"]] = record
    return records


def complete(
    path: Path,
    keys: Iterable[str],
    work: Callable[[str], Mapping[str, Any]],
    *,
    workers: int = 1,
    title: str = "",
) -> dict[str, Record]:
    """Do the work for every key that the journal lacks and append what comes of it.

    `work` runs in processes of its own, one thread each; a terminal shows a progress bar.
    """
    keys = list(keys)
    known = read(path)
    missing = [key for key in keys if key not in known]
    path.parent.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool,
        path.open("a", encoding="utf-8") as journal,
        tqdm(total=len(keys), initial=len(keys) - len(missing), desc=title, disable=None) as bar,
    ):
        tasks = {pool.submit(work, key): key for key in missing}
        for task in as_completed(tasks):
            try:
                record = {"key": tasks[task], **task.result()}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            known[record["key"]] = record
            bar.update()
    return {key: known[key] for key in keys}


def _one_thread() -> None:
    torch.set_num_threads(1)
