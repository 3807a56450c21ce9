"""LEARNING.md: batches that are to be learned, and the tangent kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from examples.benchmarks.table import environment
from examples.study.corpus import recipe
from examples.study.report.text import Records, markdown_table
from examples.study.trainability import FAILED, LEARNED, Truth

WRITTEN = Path(__file__).parents[1] / "LEARNING.md"
#: What is left of the residual, from which on the kernel says that nothing is learned.
LEFT = (0.9, 0.95, 0.99)
LABELS = ("neither", "partly", "adam", "sgd", "both")


def write(known: Mapping[str, Records], truths: Mapping[int, Truth]) -> None:
    """Write the page of what the journals know, by stage."""
    blocks = [
        "# Batches that are to be learned",
        INTRODUCTION,
        *_healthy(known["learning-healthy"]),
        *_judged(known["learning-trained"], truths),
        *_doubtful(known["learning-random"], truths),
        *_tangent(known["tangent"], truths),
        environment(),
    ]
    WRITTEN.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


INTRODUCTION = """`python -m examples.study.learning` writes this page, with `--write` of what
its journals hold already. GH604 trains a copy on the batch, whose loss is to fall by a tenth and
below what one answer for all examples has."""


def _healthy(records: Records) -> Iterator[str]:
    known = [r for r in records.values() if "course" in r]
    courses = Counter(r["course"] for r in known)
    failed = sum(r["severity"] == "failure" for r in known)
    yield "## Healthy networks"
    yield (
        f"Nothing declared. Of {len(known)} networks of the zoo {failed} fail and"
        f" {courses['learned']} learn, half of them in {median(r['steps'] for r in known):g} steps"
        f" or fewer; {courses['falling'] + courses['settled']} are not judged. Left out are"
        f" {len(records) - len(known)} that cannot be copied, or not trained in a minute, and the"
        " largest."
    )


def _judged(records: Records, truths: Mapping[int, Truth]) -> Iterator[str]:
    rows, more = [], Counter[str]()
    for half in ("calibration", "test"):
        for title, labels in (("nothing", ("neither",)), ("SGD", ("both", "sgd"))):
            chosen = [
                r
                for n, r in records.items()
                if recipe(int(n)).half == half and truths[int(n)].label in labels
            ]
            failing = [r for r in chosen if r["verdict"] == "failure"]
            alone = [r["course"] for r in failing if r["failing"] == ["GH604"]]
            rows.append([half, title, len(chosen), len(failing), len(alone)])
            more.update(alone if title == "SGD" else [])
    yield "## Random networks with SGD declared"
    yield (
        "With momentum, at the rate at which SGD reads most digits, of 0.3, 0.1, 0.01 and 0.001;"
        " all rules, and GH604 asked."
    )
    yield markdown_table(rows, "half", "trained by", "networks", "fail", "by GH604 alone")
    yield (
        f"Of those that SGD trains, {more['stuck']} stay where they are for as many steps as are"
        f" made and learn in hundreds more, and {more['not finite']} run away when a single batch"
        " is learned at that rate: what was asked is answered, and a reason not to ask it of every"
        " model."
    )


def _doubtful(records: Records, truths: Mapping[int, Truth]) -> Iterator[str]:
    rows: dict[tuple[str, str], list[float]] = {}
    for key, record in records.items():
        number, name = key.split(":")
        if accuracy := _accuracies(truths[int(number)], name):
            said = _SAID.get(record.get("severity", ""), "learned")
            rows.setdefault((name, said), []).append(max(accuracy))
    yield "## Networks that are warned of"
    yield (
        "Random networks that do not fail, but are warned of or trained by nothing"
        f" ({len({key.split(':')[0] for key in records})}). Counted are those that read 80% of the"
        " digits after a training with the same optimizer at the same rate (where nothing is"
        " declared, with Adam at its best) / more than 30% / fewer."
    )
    table = [[*key, _counted(found)] for key, found in sorted(rows.items())]
    yield markdown_table(table, "declared", "the batch is", "trained / in part / not")
    yield DECISION


_SAID = {"failure": "not learned", "not judged": "not judged"}
DECISION = """Adam learns the batch of nearly all, or still gets on with it; some that it does not
it trains in more steps. With SGD a network may learn a hundred digits and nothing of the others, so
that a learned batch clears no warning: it would hide true ones. What does not learn its batch at a
rate is hardly ever trained at it; to know takes 20 to 180 steps, where a second look takes five. So
GH604 is asked by whoever wants it (`learn_steps=60`), and decides nothing of other rules."""


def _accuracies(truth: Truth, name: str) -> list[float]:
    """What the digits were read with after trainings as they were declared."""
    rate = float(name.split()[1]) if " " in name else None
    kind = "Adam" if rate is None else "SGD"
    runs = [r for r in truth.runs if r.optimizer == kind and rate in (None, r.lr)]
    return [run.accuracy for run in runs]


def _counted(accuracies: list[float]) -> str:
    learned = sum(a >= LEARNED for a in accuracies)
    lost = sum(a < FAILED for a in accuracies)
    return f"{learned} / {len(accuracies) - learned - lost} / {lost}"


def _tangent(records: Records, truths: Mapping[int, Truth]) -> Iterator[str]:
    rows = []
    for kind in ("mlp", "conv"):
        for label in LABELS:
            chosen = [
                r["left"]["10000"]
                for n, r in records.items()
                if recipe(int(n)).kind == kind and truths[int(n)].label == label and "left" in r
            ]
            more = [sum(left > limit for left in chosen) for limit in LEFT]
            rows.append([kind, label, len(chosen), *more])
    yield "## The tangent kernel"
    yield KERNEL
    yield markdown_table(rows, "kind", "trained by", "networks", *(f"> {x}" for x in LEFT))
    yield VERDICT


KERNEL = """What 10,000 steps of gradient descent at the longest rate would leave of the residual,
centred over the batch, if the kernel stayed what it is, by 40 backward passes (`tangent.py`), of
random networks that do not fail, nothing declared."""
VERDICT = """It finds most of what nothing trains, and much of what only Adam does. It also finds
convolutional networks that SGD trains well: their features are all but alike at first, and grow
apart as soon as they are trained, of which the kernel of the start knows nothing. No limit leaves
these out and finds the others, so that there is no such rule."""
