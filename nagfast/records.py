"""One text source, row by row: what is usable as strings, what is not as bad rows, cut at fixed row numbers.

Chunks start at rows 0, rows_per_chunk, 2 * rows_per_chunk, ... of the source, whatever its row groups are, so that a
rerun cuts the same pieces and can leave out those it has.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError, NagfastError
from nagfast.quarantine import BadRow, encode_value

BLOCK = 1 << 20
"""Bytes read at once of a JSON lines source."""
BATCH_ROWS = 8_192
"""Most rows of a Parquet source decoded at once."""

NO_DOCID = "missing docid"
BAD_DOCID = "docid is not a string or an integer"
BROKEN_DOCID = "docid is not valid UTF-8"
NO_TEXT = "missing text"
BAD_TEXT = "text is not a string"
BROKEN_TEXT = "text is not valid UTF-8"
BROKEN_LINE = "line is not valid UTF-8"
BAD_JSON = "invalid JSON"
NO_OBJECT = "JSON line is not an object"
BROKEN_KEPT = "kept column is not valid UTF-8"


class UnreadableSourceError(NagfastError):
    """A file that cannot be read to its end; chunks already yielded stay good and other files are not concerned."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read, as the user gave them; a dotted name may be a path into nested records."""

    text: str = "doc"
    """The document."""
    id: str = "docid"
    """Its id, text or whole number."""
    keep: tuple[str, ...] = ()
    """Columns to carry along."""


@dataclass(frozen=True)
class Source:
    """One file of text."""

    path: str
    """Path or URL."""
    format: Literal["parquet", "jsonl"]
    """How it is written."""
    size: int | None
    """Bytes, where known."""
    name: str
    """Short and stable: same file in the same folder, same name, wherever the folder lies."""


@dataclass
class Rows:
    """A chunk of a source: usable rows in order, and the others. Every row is in one of the two, blank lines apart."""

    source: Source
    start: int
    """Row number of the chunk's first row in the source."""
    count: int = 0
    """Rows of the source in this chunk."""
    docids: list[str] = field(default_factory=list)
    """Ids of the usable rows (n), none empty."""
    texts: list[str] = field(default_factory=list)
    """Their documents (n), all valid Unicode; may be empty."""
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Their row numbers in the source (int64 [n])."""
    kept: pa.Table | None = None
    """The columns asked for with keep (n rows); None where there are none."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows left out."""


def unreadable(source: Source, error: object) -> UnreadableSourceError:
    """The one-line error for a source that cannot be read to its end."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UnreadableSourceError(f"{source.path}: cannot be read to its end ({reason}); fetch or write the file again")


def _guarded(source: Source, items: Iterator[Any]) -> Iterator[Any]:
    """The same items; whatever goes wrong below (disk, network, codec, format) is an unreadable source."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise unreadable(source, error) from error
        yield item


def open_source(source: Source) -> BinaryIO:
    """Open for reading bytes.

    Raises:
        UnreadableSourceError: it cannot be opened.
    """
    try:
        if "://" not in source.path:
            return Path(source.path).open("rb")
        system, path = fsspec.core.url_to_fs(source.path)
        return cast(BinaryIO, system.open(path, "rb"))
    except Exception as error:
        raise unreadable(source, error) from error


def missing_column(source: Source, name: str, option: str, have: list[str]) -> ArgumentError:
    """The one-line error for a column that a source does not have."""
    columns = ", ".join(have[:30]) + (", ..." if len(have) > 30 else "")
    return ArgumentError(f"{source.path}: has no column {name!r} (see {option}); it has {columns}")


def _options(columns: Columns) -> dict[str, str]:
    """Column -> the option that names it."""
    return {columns.text: "--text-column", columns.id: "--id-column"} | dict.fromkeys(columns.keep, "--keep")


class _Chunk:
    """Rows under construction: row by row, or some rows at a time."""

    def __init__(self, source: Source, start: int) -> None:
        self.rows = Rows(source, start)
        self._numbers: list[int] = []
        self.kept: list[pa.Table] = []

    def add(self, row: int, docid: Any, text: Any, raw: Any) -> bool:
        """Take one row, as usable (True) or as a bad one with the value `raw`. Broken strings come as bytes."""
        if type(docid) is str and docid and type(text) is str:
            self.rows.docids.append(docid)
            self.rows.texts.append(text)
            self._numbers.append(row)
            return True
        if docid is None or docid in ("", b""):
            reason = NO_DOCID
        elif not isinstance(docid, str):
            reason = BROKEN_DOCID if isinstance(docid, bytes) else BAD_DOCID
        elif text is None:
            reason = NO_TEXT
        else:
            reason = BROKEN_TEXT if isinstance(text, bytes) else BAD_TEXT
        self.add_bad(row, reason, docid, raw)
        return False

    def add_bad(self, row: int, reason: str, docid: Any, raw: str | bytes | None) -> None:
        """Take one row that is not usable."""
        docid = encode_value(docid) if isinstance(docid, (str, bytes)) else None
        self.rows.bad.append(BadRow(self.rows.source.path, row, reason, docid, encode_value(raw)))

    def finish(self, count: int) -> Rows:
        """The chunk of `count` source rows."""
        self.rows.count = count
        self.rows.rows = np.array(self._numbers, dtype=np.int64)
        self.rows.kept = pa.concat_tables(self.kept) if self.kept else None
        return self.rows


# --- Parquet ----------------------------------------------------------------------------------------------------------


def read_parquet(source: Source, columns: Columns, rows_per_chunk: int, skip: Callable[[int], bool]) -> Iterator[Rows]:
    """Chunks of a Parquet source; row groups that lie in skipped chunks are not read (errors: see inputs.read_rows)."""
    with open_source(source) as handle:
        try:
            file = pq.ParquetFile(handle, buffer_size=BLOCK, pre_buffer=False)
            schema = file.schema_arrow
            groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        except Exception as error:
            raise unreadable(source, error) from error
        paths = {name: _resolve(source, schema, name, option) for name, option in _options(columns).items()}
        _check_types(source, schema, columns, paths)
        wanted = list(dict.fromkeys(".".join(path) for path in paths.values()))
        at, chunk = 0, _Chunk(source, 0)
        for group, rows in enumerate(groups):
            end = at + rows
            if all(skip(c) for c in range(at // rows_per_chunk, -(-end // rows_per_chunk))):
                at = end
                continue
            batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False)
            for batch in _guarded(source, iter(batches)):
                taken = 0
                while taken < len(batch):
                    number = at // rows_per_chunk
                    piece = batch.slice(taken, (number + 1) * rows_per_chunk - at)
                    if not skip(number):
                        if chunk.rows.start != number * rows_per_chunk:
                            chunk = _Chunk(source, number * rows_per_chunk)
                        _add_batch(chunk, piece, at, columns, paths)
                    taken, at = taken + len(piece), at + len(piece)
                    if at % rows_per_chunk == 0 and not skip(number):
                        yield chunk.finish(rows_per_chunk)
            if at != end:
                raise unreadable(source, f"row group {group} has {at - end + rows} rows where its footer says {rows}")
        if at % rows_per_chunk and not skip(at // rows_per_chunk):
            yield chunk.finish(at % rows_per_chunk)


def _resolve(source: Source, schema: pa.Schema, name: str, option: str) -> tuple[str, ...]:
    """Path of a column: the name itself, or its dotted parts through nested records."""
    if schema.get_field_index(name) >= 0:
        return (name,)
    parts = tuple(name.split("."))
    kind: pa.DataType = pa.struct(list(schema))
    for part in parts:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise missing_column(source, name, option, _leaf_names(schema))
        kind = kind.field(part).type
    return parts


def _leaf_names(fields: pa.Schema | pa.StructType, prefix: str = "") -> list[str]:
    names: list[str] = []
    for each in fields:
        nested = pa.types.is_struct(each.type)
        names += _leaf_names(each.type, f"{prefix}{each.name}.") if nested else [prefix + each.name]
    return names


def _kind(schema: pa.Schema, path: tuple[str, ...]) -> pa.DataType:
    kind = schema.field(path[0]).type
    for part in path[1:]:
        kind = kind.field(part).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _pick(batch: pa.RecordBatch, path: tuple[str, ...]) -> pa.Array:
    array = batch.column(batch.schema.get_field_index(path[0]))
    for part in path[1:]:
        array = pc.struct_field(array, part)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_text(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return _is_bytes(kind) or any(check(kind) for check in kinds)


def _is_bytes(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _check_types(source: Source, schema: pa.Schema, columns: Columns, paths: dict[str, tuple[str, ...]]) -> None:
    kinds = {name: _kind(schema, path) for name, path in paths.items()}
    if not _is_text(kinds[columns.text]):
        raise ArgumentError(
            f"{source.path}: column {columns.text!r} is {kinds[columns.text]}, not text; see --text-column"
        )
    if not _is_text(kinds[columns.id]) and not pa.types.is_integer(kinds[columns.id]):
        raise ArgumentError(
            f"{source.path}: column {columns.id!r} is {kinds[columns.id]}, neither text nor whole numbers; "
            "see --id-column"
        )


def _strings(array: pa.Array) -> list[str | bytes | None]:
    """Values as str, or as bytes where they are not valid UTF-8."""
    if pa.types.is_integer(array.type):
        return cast("list[str | bytes | None]", array.cast(pa.string()).to_pylist())
    if not _is_bytes(array.type):
        try:
            return cast("list[str | bytes | None]", array.to_pylist())
        except UnicodeDecodeError:
            array = array.cast(pa.binary_view() if pa.types.is_string_view(array.type) else pa.large_binary())
    return [_decoded(value) for value in array.to_pylist()]


def _decoded(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _add_batch(
    chunk: _Chunk, batch: pa.RecordBatch, at: int, columns: Columns, paths: dict[str, tuple[str, ...]]
) -> None:
    docids, texts = _strings(_pick(batch, paths[columns.id])), _strings(_pick(batch, paths[columns.text]))
    good = [chunk.add(at + i, docid, text, text) for i, (docid, text) in enumerate(zip(docids, texts, strict=True))]
    if columns.keep:
        table = pa.table({name: _pick(batch, paths[name]) for name in columns.keep})
        chunk.kept.append(table if all(good) else table.filter(pa.array(good, pa.bool_())))


# --- JSON lines -------------------------------------------------------------------------------------------------------


def read_lines(source: Source) -> Iterator[bytes]:
    """Lines of a plain, .gz or .zst source without their line ends.

    Raises:
        UnreadableSourceError: it cannot be opened, or ends in the middle of a compressed stream.
    """
    suffix = source.path.rsplit(".", 1)[-1].lower()
    codec = {"gz": "gzip", "zst": "zstd", "zstd": "zstd"}.get(suffix)
    with open_source(source) as handle:
        yield from _guarded(source, _split_lines(pa.input_stream(handle, compression=codec)))


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
        self.chunk = _Chunk(source, start)
        self.kept: dict[str, list[Any]] = {name: [] for name in columns.keep}
        self.names = list(_options(columns))
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
            raise missing_column(self.source, name, _options(self.columns)[name], list(self.seen))
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
