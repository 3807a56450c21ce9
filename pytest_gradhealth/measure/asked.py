"""Questions that take runs of a model of their own, and may be left without an answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar, cast

from pytest_gradhealth.errors import ProbeError
from pytest_gradhealth.subject.subject import Subject
from pytest_gradhealth.tensors.modules import waits_for_others

_Question = TypeVar("_Question", bound=Callable[..., Any])


def asked(otherwise: object) -> Callable[[_Question], _Question]:
    """Have a question about a subject asked isolated, and answered `otherwise` where that fails.

    A model whose forward waits for other processes is not asked at all.
    """

    def decorated(question: _Question) -> _Question:
        @wraps(question)
        def ask(subject: Subject, *args: Any, **named: Any) -> Any:
            if not waits_for_others(subject.model):
                with subject.isolated(), suppress(ProbeError, RuntimeError):
                    return question(subject, *args, **named)
            return otherwise

        return cast("_Question", ask)

    return decorated
