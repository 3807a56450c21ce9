"""The rules: one file per rule, each a pure function of what was measured."""

from __future__ import annotations

from pytest_gradhealth.rules.rule import Evidence, Rule

__all__ = ["Evidence", "Rule", "built_in_rules"]


def built_in_rules() -> tuple[Rule, ...]:
    """Return the package's own rules, in the order of their codes."""
    from pytest_gradhealth.rules import (
        dominating,
        exploding,
        nonfinite,
        unreached,
        update,
        vanishing,
    )

    return (
        vanishing.RULE,
        exploding.RULE,
        update.RULE,
        nonfinite.RULE,
        unreached.RULE,
        dominating.RULE,
    )
