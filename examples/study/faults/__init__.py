"""Networks that are known to fail, from published collections, papers and questions, and cured."""

from __future__ import annotations

from examples.study.faults.collections import (
    autotrainer_faults,
    checker_faults,
    stack_overflow_faults,
)
from examples.study.faults.operations import cut_faults, numeric_faults
from examples.study.faults.out_of_reach import faults_out_of_reach
from examples.study.faults.papers import attention_faults, dead_faults, depth_faults
from examples.study.faults.reports import reported_faults
from examples.study.network import Fault


def known_faults() -> tuple[Fault, ...]:
    """Return every fault, those that the linter is to find first."""
    return (
        *autotrainer_faults(),
        *stack_overflow_faults(),
        *checker_faults(),
        *depth_faults(),
        *dead_faults(),
        *cut_faults(),
        *numeric_faults(),
        *attention_faults(),
        *reported_faults(),
        *faults_out_of_reach(),
    )
