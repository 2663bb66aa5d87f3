"""One text source, row by row: what is usable as strings, what is not as bad rows, cut at fixed row numbers.

Chunks start at rows 0, rows_per_chunk, 2 * rows_per_chunk, ... of the source, whatever its row groups are, so that a
rerun cuts the same pieces and can leave out those it has.
"""

from __future__ import annotations

import hashlib
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
"""Bytes read at once of a source."""
BATCH_ROWS = 8_192
"""Most rows of a Parquet source decoded at once."""

NO_DOCID = "missing docid"
BAD_DOCID = "docid is not a string or an integer"
BROKEN_DOCID = "docid is not valid UTF-8"
NO_TEXT = "missing text"
BAD_TEXT = "text is not a string"
BROKEN_TEXT = "text is not valid UTF-8"


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


def guarded(source: Source, items: Iterator[Any]) -> Iterator[Any]:
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


def content_digest(source: Source) -> str:
    """SHA-256 (first 16 hex digits) over the size and the first and last blocks of a source: cheap, and moves with it.

    Raises:
        UnreadableSourceError: it cannot be opened or read.
    """
    digest = hashlib.sha256(str(source.size).encode())
    with open_source(source) as handle:
        try:
            digest.update(handle.read(BLOCK))
            if source.size is not None and source.size > BLOCK:
                handle.seek(max(BLOCK, source.size - BLOCK))
                digest.update(handle.read(BLOCK))
        except OSError as error:
            raise unreadable(source, error) from error
    return digest.hexdigest()[:16]


def missing_column(source: Source, name: str, option: str, have: list[str]) -> ArgumentError:
    """The one-line error for a column that a source does not have."""
    columns = ", ".join(have[:30]) + (", ..." if len(have) > 30 else "")
    return ArgumentError(f"{source.path}: has no column {name!r} (see {option}); it has {columns}")


def column_options(columns: Columns) -> dict[str, str]:
    """Column -> the option that names it."""
    return {columns.text: "--text-column", columns.id: "--id-column"} | dict.fromkeys(columns.keep, "--keep")


class Chunk:
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
        paths = {name: _resolve(source, schema, name, option) for name, option in column_options(columns).items()}
        _check_types(source, schema, columns, paths)
        wanted = list(dict.fromkeys(".".join(path) for path in paths.values()))
        at, chunk = 0, Chunk(source, 0)
        for group, rows in enumerate(groups):
            end = at + rows
            if all(skip(c) for c in range(at // rows_per_chunk, -(-end // rows_per_chunk))):
                at = end
                continue
            batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False)
            for batch in guarded(source, iter(batches)):
                taken = 0
                while taken < len(batch):
                    number = at // rows_per_chunk
                    piece = batch.slice(taken, (number + 1) * rows_per_chunk - at)
                    if not skip(number):
                        if chunk.rows.start != number * rows_per_chunk:
                            chunk = Chunk(source, number * rows_per_chunk)
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
    chunk: Chunk, batch: pa.RecordBatch, at: int, columns: Columns, paths: dict[str, tuple[str, ...]]
) -> None:
    docids, texts = _strings(_pick(batch, paths[columns.id])), _strings(_pick(batch, paths[columns.text]))
    good = [chunk.add(at + i, docid, text, text) for i, (docid, text) in enumerate(zip(docids, texts, strict=True))]
    if columns.keep:
        table = pa.table({name: _pick(batch, paths[name]) for name in columns.keep})
        chunk.kept.append(table if all(good) else table.filter(pa.array(good, pa.bool_())))
