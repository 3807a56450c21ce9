"""The rules: one file per rule, each a pure function of what was measured."""

from __future__ import annotations

from pytest_gradhealth.rules.rule import Evidence, Rule

__all__ = ["Evidence", "Rule", "built_in_rules"]


def built_in_rules() -> tuple[Rule, ...]:
    """Return the package's own rules, in the order of their codes."""
    from pytest_gradhealth.rules import (
        attention_collapse,
        collapsed_output,
        dead_units,
        exploding,
        exploding_output,
        exploding_update,
        identical_units,
        negligible_gradient,
        non_finite,
        regulariser_dominates,
        saturated_units,
        underflow,
        unreached,
        unregistered,
        unused,
        vanishing,
        vanishing_in_time,
    )

    return (
        vanishing.RULE,
        vanishing_in_time.RULE,
        negligible_gradient.RULE,
        exploding.RULE,
        exploding_update.RULE,
        exploding_output.RULE,
        non_finite.RULE,
        unreached.RULE,
        dead_units.RULE,
        saturated_units.RULE,
        collapsed_output.RULE,
        unused.RULE,
        identical_units.RULE,
        attention_collapse.RULE,
        unregistered.RULE,
        underflow.RULE,
        regulariser_dominates.RULE,
    )
