"""Run the study and write RESULTS.md: python -m examples.study"""

from __future__ import annotations

import argparse
import math
import os

from examples.study.report import figures, report
from examples.study.report.scoring import joined
from examples.study.stages import RESULTS, STAGES
from examples.study.zoo import missing_libraries
from pytest_gradhealth.config.options import DEFAULTS


def main() -> None:
    """Do what the journals lack, then write tables and plots."""
    parser = argparse.ArgumentParser(prog="python -m examples.study", description=__doc__)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    workers = parser.parse_args().workers
    for family, libraries in missing_libraries().items():
        parser.error(f"{family} needs {', '.join(libraries)}: pip install -e '.[study]'")
    training, random, healthy, known = (stage.run(workers) for stage in STAGES)
    report.write(training, random, healthy, known)
    limits = {name: math.log10(DEFAULTS[name]) for name in ("min_ratio", "max_ratio")}
    figures.draw(joined(training, random), limits, RESULTS)


if __name__ == "__main__":
    main()
