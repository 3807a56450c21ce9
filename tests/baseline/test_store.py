"""Files of baselines: what is written is read back, and what is none is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gradhealth import ProbeError
from pytest_gradhealth.baseline.entry import Entry
from pytest_gradhealth.baseline.store import VERSION, file_for, read, write
from tests.helpers.baselines import ENTRIES, NAMES, PLAIN, entry


@given(st.dictionaries(NAMES, ENTRIES, min_size=1, max_size=4))
def test_a_file_gives_back_what_was_written(entries: dict[str, Entry]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        file = Path(folder, "deep", "test_x.json")
        write(file, "f.json", entries)
        text = file.read_text()
        assert text.isascii()
        back = read(file, "it")
        assert repr([back[key] for key in sorted(back)]) == repr(
            [entries[key] for key in sorted(entries)]
        )
        write(file, "f.json", back)
        assert file.read_text() == text
        assert [p.name for p in file.parent.iterdir()] == ["test_x.json"]
        write(file, "f.json", {})
        assert not file.parent.exists()


def test_a_layer_is_a_line_and_keys_are_sorted(tmp_path: Path) -> None:
    file = file_for(tmp_path / "test_x.py", "__kept__")
    assert file == tmp_path / "__kept__" / "test_x.json"
    write(file, "f.json", {"b": entry(PLAIN), "a": entry(PLAIN, verdict="warning")})
    lines = file.read_text().splitlines()
    assert '      {"layer": "1", "type": "ReLU", "norm": -0.8},' in lines
    assert list(json.loads(file.read_text())["entries"]) == ["a", "b"]


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "test_x.json"
    write(file, "f.json", {"a": entry(PLAIN)})
    before = file.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(file, "f.json", {"b": entry(PLAIN)})
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["test_x.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD", "tests/x.json is no baseline (JSONDecodeError: Expecting value: line 1"),
        ("[]", "tests/x.json is no baseline (TypeError: "),
        ('{"version": 1}', "tests/x.json is no baseline (KeyError: 'entries')"),
        ('{"version": 1, "entries": {"a": {}}}', "tests/x.json is no baseline (TypeError: "),
        ('{"version": true, "entries": {}}', "tests/x.json is no baseline (ValueError: version is"),
        ('{"version": 0, "entries": {}}', "tests/x.json is no baseline (ValueError: version is 0)"),
        (
            '{"version": 1, "entries": {"a": {"verdict": "good", "paths": []}}}',
            "tests/x.json is no baseline (ValueError: the entry 'a' is incomplete)",
        ),
        (
            '{"version": 1, "entries": {"a": {"verdict": "healthy", "paths": [{"ratio": 0,'
            ' "points": []}]}}}',
            "tests/x.json is no baseline (ValueError: the entry 'a' is incomplete)",
        ),
        (
            '{"version": 1, "entries": {"a": {"verdict": "healthy", "paths": []}, "a": {}}}',
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
