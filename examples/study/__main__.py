"""Run the study and write RESULTS.md: python -m examples.study"""

from __future__ import annotations

import argparse
import math
import os

from examples.study.declared.stages import DECLARED
from examples.study.journal import read
from examples.study.operators.stages import OPERATORS
from examples.study.rates import STAGES as RATES
from examples.study.report import figures, report
from examples.study.report.scoring import joined
from examples.study.stages import RESULTS, STAGES
from examples.study.tools import stage as tools
from examples.study.zoo import missing_libraries
from pytest_gradhealth.config.options import DEFAULTS


def main() -> None:
    """Do what the journals lack, then write tables and plots."""
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    workers = parser.parse_args().workers
    for family, libraries in missing_libraries().items():
        parser.error(f"{family} needs {', '.join(libraries)}: pip install -e '.[study]'")
    if absent := tools.missing():
        parser.error(f"other tools are run: pip install {' '.join(absent)}")
    training, random, healthy, known = (stage.run(workers) for stage in STAGES)
    added = {stage.name: stage.run(workers) for stage in (*OPERATORS, tools.ASKED, *DECLARED)}
    added |= {stage.name: read(stage.journal) for stage in RATES}
    report.write(training, random, healthy, known, added)
    limits = {name: math.log10(DEFAULTS[name]) for name in ("min_ratio", "max_ratio")}
    figures.draw(joined(training, random), limits, RESULTS)


if __name__ == "__main__":
    main()
