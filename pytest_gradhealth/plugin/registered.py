"""Rules and remedies that hooks have registered, as far as they are what they have to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pytest

from pytest_gradhealth.config.arguments import listed
from pytest_gradhealth.remedies import Remedy, built_in_remedies
from pytest_gradhealth.rules import Rule
from pytest_gradhealth.rules.rule import checked

T = TypeVar("T")


def registered_rules(hooks: Any, config: pytest.Config) -> Sequence[Rule]:
    """The rules of every implementation of the hook, by code.

    Raises SettingError for what is no rule, and for two with the same code.
    """
    return checked(_returned(hooks, "pytest_gradhealth_rules", config, Rule))


def registered_remedies(hooks: Any, config: pytest.Config) -> Sequence[Remedy]:
    """The remedies of every implementation of the hook, the package's own first.

    Raises SettingError for what is no remedy.
    """
    own = built_in_remedies()
    found = list(_returned(hooks, "pytest_gradhealth_remedies", config, Remedy))
    return (*own, *(remedy for remedy in found if remedy not in own))


def _returned(hooks: Any, hook: str, config: pytest.Config, kind: type[T]) -> Iterator[T]:
    name = f"pytest_gradhealth.{kind.__name__}"
    for returned in getattr(hooks, hook)(config=config):
        yield from listed(
            returned,
            kind,
            f"{hook} returned a {{}}; return a list of {name} objects",
            f"{hook} returned a {{}} in its list; return {name} objects",
        )
