"""JSON lines, plain, .gz or .zst: one document a line, unusable lines set aside, cut at fixed row numbers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from nagfast.records import BLOCK, Chunk, Columns, Rows, Source, column_options, guarded, missing_column, open_source

BAD_JSON = "invalid JSON"
BROKEN_KEPT = "kept column is not valid UTF-8"
BROKEN_LINE = "line is not valid UTF-8"
NO_OBJECT = "JSON line is not an object"


def read_lines(source: Source) -> Iterator[bytes]:
    """Lines of a plain, .gz or .zst source without their line ends.

    Raises:
        UnreadableSourceError: it cannot be opened, or ends in the middle of a compressed stream.
    """
    suffix = source.path.rsplit(".", 1)[-1].lower()
    codec = {"gz": "gzip", "zst": "zstd", "zstd": "zstd"}.get(suffix)
    with open_source(source) as handle:
        yield from guarded(source, _split_lines(pa.input_stream(handle, compression=codec)))


def _split_lines(stream: pa.NativeFile) -> Iterator[bytes]:
    rest: list[bytes] = []
    while block := stream.read(BLOCK):
        first, *others = block.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    if any(rest):
        yield b"".join(rest)


def read_jsonl(source: Source, columns: Columns, rows_per_chunk: int, skip: Callable[[int], bool]) -> Iterator[Rows]:
    """Chunks of a JSON lines source; the lines of skipped chunks are counted, not parsed (errors: inputs.read_rows)."""
    lines = read_lines(source)
    for number in itertools.count():
        start = number * rows_per_chunk
        piece = itertools.islice(lines, rows_per_chunk)
        if skip(number):
            count = sum(1 for _ in piece)
        else:
            parser = _LineParser(source, start, columns)
            count = 0
            for count, line in enumerate(piece, 1):
                parser.add(start + count - 1, line)
            if count:
                yield parser.finish(count)
        if count < rows_per_chunk:
            return


class _LineParser:
    """JSON lines of a chunk."""

    def __init__(self, source: Source, start: int, columns: Columns) -> None:
        self.source, self.columns = source, columns
        self.chunk = Chunk(source, start)
        self.kept: dict[str, list[Any]] = {name: [] for name in columns.keep}
        self.names = list(column_options(columns))
        self.unseen = set(self.names)
        self.objects = 0
        self.seen: dict[str, None] = {}  # the keys of the first objects, in order

    def add(self, row: int, line: bytes) -> None:
        """Parse a line; one that is blank is passed over."""
        if row == 0:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            return
        try:
            text = line.decode("utf-8")
            record = json.loads(text)
        except UnicodeDecodeError:
            self.chunk.add_bad(row, BROKEN_LINE, None, line)
            return
        except (ValueError, RecursionError):
            self.chunk.add_bad(row, BAD_JSON, None, text)
            return
        if not isinstance(record, dict):
            self.chunk.add_bad(row, NO_OBJECT, None, text)
            return
        self._add_record(row, record, text)

    def _add_record(self, row: int, record: dict[str, Any], line: str) -> None:
        values = {name: _lookup(record, name) for name in self.names}
        if self.unseen:
            self.unseen.difference_update(name for name, value in values.items() if value is not _ABSENT)
        values = {name: None if value is _ABSENT else value for name, value in values.items()}
        if self.objects < 10:
            self.seen.update(dict.fromkeys(_keys(record)))
        self.objects += 1
        docid, document = values[self.columns.id], values[self.columns.text]
        if type(docid) is int:
            docid = str(docid)
        if "\\ud" in line or "\\uD" in line:  # only escapes can make what is no valid Unicode
            docid, document = _surrogates_as_bytes(docid), _surrogates_as_bytes(document)
            broken = [n for n in self.columns.keep if isinstance(_surrogates_as_bytes(_scalar(values[n])), bytes)]
            if broken:
                self.chunk.add_bad(row, BROKEN_KEPT, docid if isinstance(docid, str) else None, line)
                return
        if self.chunk.add(row, docid, document, line):
            for name, kept in self.kept.items():
                kept.append(_scalar(values[name]))

    def finish(self, count: int) -> Rows:
        """The chunk; a column that the first chunk nowhere has is a wrong argument, not a bad row."""
        if self.chunk.rows.start == 0 and self.unseen and self.objects:
            name = next(name for name in self.names if name in self.unseen)
            raise missing_column(self.source, name, column_options(self.columns)[name], list(self.seen))
        if self.kept:
            self.chunk.kept.append(pa.table({name: _column(values) for name, values in self.kept.items()}))
        return self.chunk.finish(count)


_ABSENT = object()


def _lookup(record: dict[str, Any], name: str) -> Any:
    """Value under the name itself, or under its dotted parts through nested objects; _ABSENT where there is none."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _keys(record: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in record.items():
        if isinstance(value, dict) and prefix.count(".") < 4:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _surrogates_as_bytes(value: Any) -> Any:
    try:
        return value.encode("utf-8") and value if isinstance(value, str) else value
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")


def _scalar(value: Any) -> Any:
    """Kept values: objects and arrays as JSON text, because their shape may change from line to line."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _column(values: list[Any]) -> pa.Array:
    """Kept values of a chunk in the type Arrow infers; as text where they are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        texts = (v if isinstance(v, str) or v is None else json.dumps(v) for v in values)
        return pa.array(list(texts), pa.string())
