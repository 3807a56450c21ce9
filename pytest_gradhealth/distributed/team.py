"""How the processes that share a model come to one verdict on it.

The processes talk through the store that their process group was made with, which works beside any
backend and whatever the devices are busy with. Only checks of a model that is shared talk at all; a
plain model is every process's own. This module imports nothing of torch.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_gradhealth.context import current
from pytest_gradhealth.distributed.attendance import announce, gone, part_of, store_of
from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.results.diagnosis import VERDICTS, Diagnosis
from pytest_gradhealth.results.profile import SOMEWHERE
from pytest_gradhealth.tensors.modules import (
    as_written,
    is_ddp,
    is_dtensor,
    is_sharded,
    process_group,
)

if TYPE_CHECKING:
    from pytest_gradhealth.context import Context

#: Seconds between two looks into the store: at first, and at most. Its own `wait` would wait for a
#: rank that will never come, too.
_PAUSES = 0.001, 0.05
#: Seconds that a rank that failed waits for the others to fail as well.
_GRACE = 5.0


def forget_exchanges(context: Context) -> None:
    """Forget how many exchanges there were in a part of a test that is over."""
    for place in [place for place in _exchanges if place.endswith(f"/{part_of(context)}")]:
        del _exchanges[place]


def anywhere(model: Any, answer: bool) -> bool:
    """Whether the answer is yes on any rank that looks at a model together with this one.

    Where one of them goes on to another forward, all have to: it may wait for what the others send.
    Other models have one's own answer.
    """
    team = _looking or (_team_of(model) if is_sharded(model) else None)
    return answer if team is None else "yes" in team.exchange("yes" if answer else "no")


def everywhere(model: Any, names: Sequence[str]) -> list[str]:
    """The names on all ranks that look at a model together with this one."""
    if _looking is None and not is_sharded(model):
        return [*names]
    return sorted({name for theirs in exchanged(model, [*names]).values() for name in theirs})


def exchanged(model: Any, value: Any) -> dict[int, Any]:
    """What each rank says that computes a model together with this one; values as JSON has them."""
    team = _looking or _team_of(model)
    if team is None:
        return {0: value}
    said = team.exchange(json.dumps(value))
    return {rank: json.loads(text) for rank, text in zip(team.ranks, said, strict=True)}


def agreed(model: Any, make: Callable[[], Diagnosis]) -> Diagnosis:
    """Return what `make` finds; of a shared model, the worst that it finds on any rank.

    Raises ProbeError where it fails on another rank, or another rank does not come.
    """
    team = _team_of(model)
    if team is None:
        return make()
    from pytest_gradhealth.distributed.collectives import Collectives

    seen = Collectives()
    with _failing_together(team, lambda: is_sharded(model) or seen.any):
        with _in_step(team), seen:
            mine = make()
        verdicts = team.exchange(mine.verdict)
        vague = team.exchange(str(any(p.non_finite == SOMEWHERE for p in mine.profiles)))
    worst = min(range(len(verdicts)), key=lambda i: (VERDICTS.index(verdicts[i]), vague[i]))
    rank = team.ranks[worst]
    if len(set(verdicts)) > 1:
        mine = replace(mine, device=f"{mine.device} of rank {rank}")
    mine = replace(mine, origin=replace(mine.origin, rank=rank, talks=seen.any))
    return _of_rank(team, rank, mine)


@contextmanager
def together() -> Iterator[None]:
    """Have all processes of the group go through what is inside, or fail with one that fails.

    All decisions inside are made together.
    """
    dist = process_group()
    if dist is None or dist.get_world_size() < 2:
        yield
        return
    team = _Team(tuple(range(dist.get_world_size())), dist.get_rank(), store_of(dist))
    with _failing_together(team, lambda: True), _in_step(team):
        yield


@contextmanager
def _failing_together(team: _Team, waited_for: Callable[[], bool]) -> Iterator[None]:
    """Tell the others what fails here, and fail with what failed there.

    Where they may be inside a collective that is `waited_for`, they are let out.
    """
    try:
        yield
    except _ElsewhereError as error:
        raise ProbeError(str(error)) from error
    except BaseException as error:
        place = team.report(error)
        if waited_for():
            team.end_alone(place)
        raise


@contextmanager
def _in_step(team: _Team) -> Iterator[None]:
    """Have all decisions inside made by all ranks together."""
    global _looking
    before, _looking = _looking, team
    try:
        yield
    finally:
        _looking = before


def by_owner(diagnosis: Diagnosis, make: Callable[[], Diagnosis]) -> Diagnosis:
    """Return what `make` adds to a diagnosis; of a shared model, on the rank that it comes from."""
    origin = diagnosis.origin
    rank = getattr(origin, "rank", None)
    team = None if rank is None else _team_of(origin.case.model)
    if team is None or rank is None:
        return make()
    return _of_rank(team, rank, make() if team.rank == rank else diagnosis)


def _of_rank(team: _Team, rank: int, mine: Diagnosis) -> Diagnosis:
    """The diagnosis of one rank, on all of them."""
    own = team.rank == rank
    try:
        texts = team.exchange(json.dumps(mine.to_dict()) if own else "")
    except _ElsewhereError as error:
        raise ProbeError(str(error)) from error
    if own:
        return mine
    theirs = _read(texts[team.ranks.index(rank)])
    return replace(theirs, origin=mine.origin)


def _read(text: str) -> Diagnosis:
    data = json.loads(text)
    profiles = _profiles(json.dumps({**data, "findings": [], "treatments": [], "milliseconds": 0}))
    return replace(Diagnosis.from_dict(data), profiles=profiles)


@lru_cache(maxsize=16)
def _profiles(text: str) -> Any:
    """The same objects for the same probe: the report tells probes apart by their profiles."""
    return Diagnosis.from_dict(json.loads(text)).profiles


class _ElsewhereError(ProbeError):
    """Another rank has failed."""


@dataclass(frozen=True)
class _Team:
    """The processes that share a model, as this one sees them."""

    ranks: tuple[int, ...]
    rank: int
    store: Any

    def exchange(self, value: str) -> list[str]:
        """Hand a text to the other ranks and return those of all, in the order of ranks."""
        place = self._post({"value": value})
        keys = [f"{place}/{rank}" for rank in self.ranks]
        self._wait(keys)
        messages = [json.loads(self.store.get(key)) for key in keys]
        # Whoever is here has read what was handed round before.
        before = _handed.get(self._name)
        _handed[self._name] = f"{place}/{self.rank}"
        if before is not None:
            self.store.delete_key(before)
        for rank, message in zip(self.ranks, messages, strict=True):
            if "error" in message:
                raise _ElsewhereError(f"on rank {rank}: {message['error']}")
        return [message["value"] for message in messages]

    def report(self, error: BaseException) -> str:
        """Tell the other ranks, where they wait for this one or will, that it has failed."""
        known = isinstance(error, ProbeError)
        return self._post({"error": str(error) if known else f"{type(error).__name__}: {error}"})

    def end_alone(self, place: str) -> None:
        """End the run of this process, unless the other ranks come to the same place soon.

        They are inside a collective that this one will not come to, and only its end lets them out.
        """
        end = time.monotonic() + _GRACE
        keys = [f"{place}/{rank}" for rank in self.ranks]
        while not self.store.check(keys):
            if time.monotonic() > end:
                context = current()
                if context is None:
                    return
                context.stop_run(
                    f"rank {self.rank} failed alone in a model that the ranks compute together"
                )
                return
            time.sleep(_PAUSES[1])

    @property
    def _name(self) -> str:
        return f"gradhealth/{zlib.crc32(str(self.ranks).encode())}"

    def _post(self, message: dict[str, str]) -> str:
        """Write a message to where this rank is: at the n-th exchange of a part of a test."""
        context = current()
        if context is not None:
            announce(self.store, self.rank, context)
        test = f"{self._name}/{part_of(context)}"
        _exchanges[test] += 1
        place = f"{test}#{_exchanges[test]}"
        self.store.set(f"{place}/{self.rank}", json.dumps(message))
        return place

    def _wait(self, keys: Sequence[str]) -> None:
        """Wait for the messages of all ranks; ProbeError for one that goes another way."""
        seconds = self.store.timeout.total_seconds()
        end = time.monotonic() + seconds
        pause, longest = _PAUSES
        while not self.store.check(list(keys)):
            for rank, key in zip(self.ranks, keys, strict=True):
                away = gone(self.store, rank)  # asked first: its message comes before it leaves
                if self.store.check([key]):
                    continue
                if away:
                    raise _ElsewhereError(
                        f"rank {rank} {away}; every rank has to run the same checks of a model that"
                        " they share, in the same order"
                    )
                if time.monotonic() > end:
                    raise _ElsewhereError(
                        f"rank {rank} has not come to this check within {seconds:g} s; call it on"
                        " every rank that shares the model"
                    )
            time.sleep(pause)
            pause = min(2 * pause, longest)


#: How many exchanges there were in each part of a test, and the last message each team was handed.
_exchanges: Counter[str] = Counter()
_handed: dict[str, str] = {}
#: The team of the probe that is being made, if several ranks make it.
_looking: _Team | None = None


def _team_of(model: Any) -> _Team | None:
    """The processes that share a model, None if it is this one's own."""
    dist = process_group()
    if dist is None:
        return None
    model = as_written(model)
    if is_ddp(model):
        ranks = dist.get_process_group_ranks(model.process_group)
    else:
        parameters = model.parameters() if is_sharded(model) else ()
        meshes = [p.device_mesh.mesh for p in parameters if is_dtensor(p)]
        ranks = sorted({rank for mesh in meshes for rank in mesh.flatten().tolist()})
    if len(ranks) < 2:
        return None
    return _Team(tuple(ranks), dist.get_rank(), store_of(dist))
