"""Quarantine: nothing lost, nothing twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nagfast.errors import NagfastError
from nagfast.quarantine import UNREADABLE, BadRow, Quarantine, decode_value, encode_value


@dataclass
class Source:
    name: str
    path: str


def test_values_survive() -> None:
    for value in ("plain", "", "née\n\x00", "\ud800", None, b"", b"\xff\x00", "base", b"text"):
        stored = encode_value(value)
        assert decode_value(json.loads(json.dumps(stored))) == value
    assert encode_value("x") == "x"
    assert encode_value(b"\xff") == "base64:/w=="
    assert decode_value(encode_value("base64:no")) == b"base64:no"


def test_write_read_and_rewrite(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "q"
    quarantine = Quarantine(folder)
    assert not quarantine
    assert quarantine.summary() == {}
    quarantine.write("a-0", [])
    assert not folder.exists()
    rows = [
        BadRow("f.parquet", 3, "null text", "id\u2028é"),
        BadRow("f.parquet", 9, "missing docid", None, "\ud800 text\nline"),
    ]
    quarantine.write("b-0", rows)
    quarantine.write("a-0", rows[:1])
    before = (folder / "b-0.jsonl").read_bytes()
    quarantine.write("b-0", rows)
    assert (folder / "b-0.jsonl").read_bytes() == before
    assert before.count(b"\n") == 2
    assert list(Quarantine(folder).rows()) == [rows[0], *rows]
    assert quarantine.summary() == {"null text": 2, "missing docid": 1}
    assert list(quarantine.summary()) == ["null text", "missing docid"]
    assert quarantine.num_rows == 3
    assert quarantine
    quarantine.write("b-0", [])
    quarantine.write("a-0", [])
    assert list(folder.iterdir()) == []
    assert not quarantine


def test_unreadable_files(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    source = Source("part-0-12345678", "s3://b/part-0.parquet")
    quarantine.clear_file(source)
    quarantine.write_file(source, "bad footer")
    quarantine.write_file(source, "worse footer")
    assert quarantine.unreadable() == {source.path: "worse footer"}
    assert quarantine.summary() == {UNREADABLE: 1}
    assert quarantine.num_files == 1
    assert quarantine.num_rows == 0
    assert quarantine
    quarantine.clear_file(source)
    assert not quarantine


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"file": "f", "row": 1, "reason": "r"}\n{"no": 1}\n')
    with pytest.raises(NagfastError, match=r"x\.jsonl: line 2"):
        Quarantine(tmp_path).summary()
    (tmp_path / "x.jsonl").unlink()
    (tmp_path / "y.unreadable.json").write_text("[]")
    with pytest.raises(NagfastError, match=r"y\.unreadable\.json"):
        Quarantine(tmp_path).summary()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NagfastError, match="could not be written"):
        Quarantine(tmp_path / "file" / "q").write("s", [BadRow("f", 0, "r")])
