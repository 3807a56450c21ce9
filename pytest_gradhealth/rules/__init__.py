"""The rules: one file per rule, each a pure function of what was measured."""

from __future__ import annotations

from pytest_gradhealth.rules.rule import Evidence, Rule

__all__ = ["Evidence", "Rule", "built_in_rules"]


def built_in_rules() -> tuple[Rule, ...]:
    """Return the package's own rules, in the order of their codes."""
    from pytest_gradhealth.rules import (
        attention,
        collapsed,
        dead,
        dominating,
        exploding,
        identical,
        in_time,
        negligible,
        nonfinite,
        output,
        saturated,
        underflow,
        unreached,
        unregistered,
        unused,
        update,
        vanishing,
    )

    return (
        vanishing.RULE,
        in_time.RULE,
        negligible.RULE,
        exploding.RULE,
        update.RULE,
        output.RULE,
        nonfinite.RULE,
        unreached.RULE,
        dead.RULE,
        saturated.RULE,
        collapsed.RULE,
        unused.RULE,
        identical.RULE,
        attention.RULE,
        unregistered.RULE,
        underflow.RULE,
        dominating.RULE,
    )
