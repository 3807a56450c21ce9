"""Files of baselines: what is written is read back, and what is none is an error."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_gradhealth import ProbeError
from pytest_gradhealth.baseline import store
from pytest_gradhealth.baseline.comparison import compare
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.baseline.store import VERSION, file_for, read, update
from tests.helpers.baselines import ENTRIES, NAMES, PATH, PLAIN, STEP, entry
from tests.helpers.wrong import WRONG, places, with_wrong


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=4))
def test_a_file_gives_back_what_was_written(entries: dict[str, Entry]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder, "deep", "test_x.json")
        update(file, "f.json", entries)
        text = file.read_text()
        assert text.isascii()
        back = read(file, "it")
        assert repr([back[key] for key in sorted(back)]) == repr(
            [entries[key] for key in sorted(entries)]
        )
        update(file, "f.json", back)
        assert file.read_text() == text
        assert [p.name for p in file.parent.iterdir()] == ["test_x.json"]
        update(file, "f.json", gone=entries)
        assert not file.parent.exists()


def test_a_layer_is_a_line_and_keys_are_sorted(tmp_path: Path) -> None:
    file = file_for(tmp_path / "test_x.py", "__kept__")
    assert file == tmp_path / "__kept__" / "test_x.json"
    update(file, "f.json", {"b": entry(PLAIN), "a": entry(PLAIN, verdict="warning")})
    lines = file.read_text().splitlines()
    assert '      {"layer": "1", "type": "ReLU", "norm": -0.8},' in lines
    assert list(json.loads(file.read_text())["entries"]) == ["a", "b"]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test_x.json"
    update(file, "f.json", {"a": entry(PLAIN)})
    before = file.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        update(file, "f.json", {"b": entry(PLAIN)})
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["test_x.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD", "tests/x.json is no baseline (JSONDecodeError: Expecting value: line 1"),
        ("[]", "tests/x.json is no baseline (TypeError: "),
        ('{"version": 1}', "tests/x.json is no baseline (TypeError: "),
        ('{"version": 1, "entries": {"a": {}}}', "tests/x.json is no baseline (TypeError: "),
        ('{"version": true, "entries": {}}', "tests/x.json is no baseline (ValueError: version is"),
        ('{"version": 0, "entries": {}}', "tests/x.json is no baseline (ValueError: version is 0)"),
        (
            '{"version": 1, "entries": {"a": {"verdict": "good", "paths": []}}}',
            "tests/x.json is no baseline (ValueError: entries.a.verdict is 'good', not one of"
            " 'failure', 'warning', 'not judged', 'healthy')",
        ),
        (
            '{"version": 1, "entries": {"a": {"verdict": "healthy", "paths": [{"ratio": 0,'
            ' "points": []}]}}}',
            "tests/x.json is no baseline (ValueError: entries.a.paths[0].points is [], not a list"
            " of 1 or more)",
        ),
        (
            '{"version": 1, "entries": {"b": {}, "a": {}, "a": {"verdict": "healthy"}}}',
            "tests/x.json is no baseline (ValueError: 'a' is in it twice)",
        ),
        (
            json.dumps({"version": VERSION + 1, "entries": {}}),
            f"tests/x.json was written by a newer version (format {VERSION + 1}, this one reads up"
            f" to {VERSION}); update pytest-gradhealth",
        ),
        ("\udcff", "tests/x.json cannot be read ("),
    ],
)
def test_a_file_that_is_none_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ProbeError) as caught:
        read(file, "tests/x.json")
    assert str(caught.value).startswith(message)
    if "no baseline" in message:
        assert str(caught.value).endswith(
            "; restore it from version control, or delete it and run pytest with"
            " --gradhealth-update"
        )


def test_what_was_there_is_returned_and_what_is_not_named_stays(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    one, two = entry(PLAIN), entry(PLAIN, verdict="warning")
    assert update(file, "x.json", {"a": one, "b": one}) == {}
    assert update(file, "x.json", {"b": two, "c": two}, gone=["a", "d"]) == {"a": one, "b": one}
    assert read(file, "x.json") == {"b": two, "c": two}


def refusal(file: Path) -> str:
    """What the package says of a file, "" if it can be compared with and updated."""
    try:
        for kept in read(file, "x.json").values():
            compare(kept, kept, PATH, STEP)
        update(file, "x.json", {"new": entry(PLAIN)})
    except ProbeError as error:
        return str(error)
    return ""


def test_whatever_stands_in_a_file_it_is_used_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    update(file, "x.json", {"a": Entry("healthy", (PLAIN,), 0.5, {"b": 1.0}, {"c": "d"})})
    data, said = json.loads(file.read_text()), []
    for way, wrong in itertools.product(places(data), WRONG):
        file.write_text(with_wrong(way, wrong, data))
        said.append(refusal(file))
    assert 10 < said.count("") < len(said) - 100
    known = ("x.json is no baseline (", "x.json was written by a newer version")
    assert [text for text in said if text and not text.startswith(known)] == []


#: Updates of its own keys and prunes of keys that are there from the start, once it is told to.
PROCESS = """
import sys
from pathlib import Path
from pytest_gradhealth.baseline import store
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.baseline.store import update

print(flush=True)
sys.stdin.readline()
for i in range(5):
    if {prunes}:
        update(Path({file!r}), "x.json", gone=[f"old{{i}}"])
    else:
        update(Path({file!r}), "x.json", {{f"{me}-{{i}}": Entry("healthy", ())}})
assert "torch" not in sys.modules
"""


def test_processes_that_write_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "x.json"
    old = {f"old{i}": Entry("healthy", ()) for i in range(5)}
    update(file, "x.json", old | {"stays": Entry("healthy", ())})
    code = [PROCESS.format(file=str(file), me=me, prunes=me == 0) for me in range(4)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for text in code
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in running:
        process.communicate(timeout=60)
    assert [process.returncode for process in running] == [0] * 4
    expected = {"stays", *(f"{me}-{i}" for me in (1, 2, 3) for i in range(5))}
    assert set(read(file, "x.json")) == expected
    assert [path.name for path in file.parent.iterdir()] == ["x.json"]


def test_processes_that_empty_a_folder_and_fill_it_at_once_lose_nothing(tmp_path: Path) -> None:
    file, other = tmp_path / "kept" / "x.json", tmp_path / "kept" / "y.json"
    kept = {"a": Entry("healthy", ())}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            update(other, "y.json", kept)
            done = pool.submit(update, other, "y.json", gone=["a"])
            update(file, "x.json", kept)
            done.result(timeout=60)
            assert read(file, "x.json") == kept
            update(file, "x.json", gone=["a"])
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_would_be_too_large_to_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    update(file, "x.json", {"a": entry(PLAIN)})
    before = file.read_bytes()
    monkeypatch.setattr(store, "MOST", 2**20)
    with pytest.raises(ProbeError, match=r"^x.json cannot be written \(it would have more"):
        update(file, "x.json", {"b" * 2**20: entry(PLAIN)})
    assert file.read_bytes() == before
    file.write_bytes(b" " * 2**20 + b" ")
    with pytest.raises(ProbeError, match=r"^x.json cannot be read \(it has 1 MiB, and may have 1"):
        read(file, "x.json")


def test_keys_are_looked_at_once_each(tmp_path: Path) -> None:
    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    keys = [Counted(f"k{i}") for i in range(500)] + [Counted("k499")]
    with pytest.raises(ValueError, match="'k499' is in it twice"):
        store.without_repeats([(key, 0) for key in keys])
    assert Counted.compared < 10 * len(keys)
