"""Files as SQL relations: Parquet and JSON lines, many files as one, every row with a number that says where it is.

The number is the position: (file << 40) + row, files in the order given, rows from 0. Positions decide which of several
rows with one docid is the first, name a row in the quarantine, and find the payload of a selected row again.

JSON lines are copied to temporary Parquet as raw lines, one row a line, and parsed by DuckDB with the structure of all
objects together: numbers stay numbers, text that looks like a date stays text, values of several types become text, and
a line that is no object is a row of nulls. Ids are text whatever they are, so that they join and keep every digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.duck import Session, identifier, literal
from nagfast.errors import ArgumentError, NagfastError
from nagfast.inputs import find_sources
from nagfast.jsonl import read_lines
from nagfast.quarantine import Quarantine
from nagfast.records import Source, UnreadableSourceError

Paths = str | Path | Sequence[str | Path]

POSITION = "__nagfast_position"
ROW_BITS = 40
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
IDS = ("docid",)
"""Columns of document ids where the caller names none."""
LINES_PER_BATCH = 8192
_VIRTUAL = ("file_index", "file_row_number")  # DuckDB's names; a real column of that name would hide them
_HUGE = re.compile(r"\bHUGEINT\b")


# --- files ------------------------------------------------------------------------------------------------------------


def is_json(path: str) -> bool:
    """Whether a file that expand found holds JSON lines; it is Parquet otherwise."""
    return not path.lower().endswith(PARQUET_SUFFIXES)


def expand(paths: Paths, argument: str) -> list[str]:
    """Files behind paths, folders, globs and fsspec URLs: those that extraction reads there, in the same order.

    Args:
        paths: one or several.
        argument: the argument's name, for the errors.

    Raises:
        ArgumentError: nothing there, or a file that is neither Parquet nor JSON lines.
        NagfastError: a remote folder cannot be listed.
    """
    items = [paths] if isinstance(paths, (str, Path)) else paths
    try:
        return [source.path for source in find_sources([str(item) for item in items])]
    except ArgumentError as error:
        raise ArgumentError(f"{argument}: {str(error).removeprefix('inputs: ')}") from error


_UNREADABLE = (OSError, EOFError, ValueError, UnreadableSourceError, pa.ArrowException)


def _copy_lines(path: str, out: Path) -> None:
    """JSON lines -> Parquet with one string column `line`; a line that is not UTF-8 becomes null."""
    schema = pa.schema([("line", pa.string())])
    with pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=False) as writer:
        batch: list[str | None] = []
        size = 0
        for row, line in enumerate(read_lines(Source(path, "jsonl", None, ""))):
            size += len(line)
            try:
                batch.append(line.decode("utf-8" if row else "utf-8-sig"))
            except UnicodeDecodeError:
                batch.append(None)
            if len(batch) == LINES_PER_BATCH or size > 32 << 20:
                writer.write_table(pa.table({"line": pa.array(batch, pa.string())}))
                batch, size = [], 0
        writer.write_table(pa.table({"line": pa.array(batch, pa.string())}))


def _repair(path: str, out: Path) -> None:
    """Copy a Parquet file with text that is not UTF-8 replaced by U+FFFD where it is broken; rows keep their places."""
    with fsspec.open(path, "rb") as handle:
        file = pq.ParquetFile(handle)
        with pq.ParquetWriter(out, file.schema_arrow, compression="zstd") as writer:
            for batch in file.iter_batches(LINES_PER_BATCH):
                writer.write_batch(pa.RecordBatch.from_arrays([_valid(c) for c in batch.columns], schema=batch.schema))


def _valid(column: pa.Array) -> pa.Array:
    if pa.types.is_struct(column.type):
        inner = [_valid(column.field(i)) for i in range(column.type.num_fields)]
        return pa.StructArray.from_arrays(inner, fields=list(column.type), mask=column.is_null()) if inner else column
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        values = column.view(binary).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in values], column.type)
    return column


# --- relations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Relation:
    """Files as one SQL relation: their columns, and POSITION."""

    sql: str
    """A SELECT."""
    files: tuple[str, ...]
    """The files, in the order that positions count them."""
    columns: dict[str, str]
    """Column -> DuckDB type, POSITION left out."""
    readable: tuple[str, ...] = ()
    """What DuckDB reads: the files, or temporary copies of them."""
    unreadable: tuple[str, ...] = ()
    """Files that were left out because they cannot be read."""
    ids: tuple[str, ...] = IDS
    """Columns that JSON lines give as text."""
    casts: dict[str, str] = field(default_factory=dict)
    """Columns that change their type on the way, and what they become."""

    def place(self, position: int) -> tuple[str, int]:
        """(file, row from 0) of a position."""
        return self.files[position >> ROW_BITS], position & ((1 << ROW_BITS) - 1)

    def find(self, name: str) -> str | None:
        """SQL of a column, dotted names reaching into records; None where there is no such column."""
        if name in self.columns:
            return identifier(name)
        parts = name.split(".")
        if len(parts) > 1 and self.columns.get(parts[0], "").startswith("STRUCT"):
            return ".".join(map(identifier, parts))
        return None

    def type_of(self, name: str) -> str:
        """DuckDB type of a plain column, "" where it is dotted."""
        return self.columns.get(name, "")

    def repaired(self, session: Session) -> tuple[Relation, list[str]]:
        """The same rows with broken UTF-8 replaced (found by trying every Parquet file), and the files it was in."""
        actual, broken = list(self.readable), []
        for i, file in enumerate(self.files):
            if is_json(file):
                continue
            try:
                session.run(f"SELECT max(hash(COLUMNS(*))) FROM read_parquet([{literal(actual[i])}])").fetchall()
            except NagfastError as error:
                if "UTF8" not in str(error):
                    reason = f"{file}: could not be read to its end ({error}); write the file again"
                    raise NagfastError(reason) from error
                copy = session.folder / f"repaired-{i:06d}.parquet"
                _repair(file, copy)
                actual[i] = str(copy)
                broken.append(file)
        sql = _cast(_sql(session, self.files, actual, self.ids), self.casts)
        return replace(self, sql=sql, readable=tuple(actual)), broken


def _positioned(inner: str, numbers: Sequence[int]) -> str:
    """Add POSITION; `numbers` are the files' places among all files of the relation."""
    number = f"list_extract([{', '.join(map(str, numbers))}], CAST(file_index AS BIGINT) + 1)"
    if list(numbers) == list(range(len(numbers))):  # the common case needs no look-up
        number = "file_index"
    position = f"CAST({number} AS BIGINT) * {1 << ROW_BITS} + CAST(file_row_number AS BIGINT)"
    return f"SELECT *, {position} AS {identifier(POSITION)} FROM {inner}"


def _as_text(structure: Any) -> Any:
    """A structure with text in place of JSON: a string among other types is that string, not its JSON."""
    if isinstance(structure, dict):
        return {key: _as_text(value) for key, value in structure.items()}
    if isinstance(structure, list):
        return [_as_text(value) for value in structure]
    return "VARCHAR" if structure == "JSON" else structure


def _set_text(structure: dict[str, Any], name: str) -> None:
    """Make a column text, dotted names reaching into records; one that is absent, an object or a list stays."""
    parts = [name] if name in structure else name.split(".")
    inner: Any = structure
    for part in parts[:-1]:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get(parts[-1]), str):
        inner[parts[-1]] = "VARCHAR"


def _json_sql(session: Session, copies: Sequence[str], numbers: Sequence[int], name: str, ids: Sequence[str]) -> str:
    listed = ", ".join(map(literal, copies))
    parsed = f"(SELECT try_cast(line AS JSON) AS record, file_index, file_row_number FROM read_parquet([{listed}]))"
    (structure,) = session.row(f"SELECT json_group_structure(record) FROM {parsed} WHERE json_type(record) = 'OBJECT'")
    if structure in {None, "{}"}:
        raise ArgumentError(f"{name}: no JSON object in it; give one object a line")
    columns = _as_text(json.loads(structure))
    for column in ids:
        _set_text(columns, column)
    wanted = literal(json.dumps(columns, ensure_ascii=False))
    record = f"CASE WHEN json_type(record) = 'OBJECT' THEN from_json(record, {wanted}) END"
    inner = f"(SELECT unnest({record}), file_index, file_row_number FROM {parsed})"
    return _positioned(inner, numbers).replace("SELECT *,", "SELECT * EXCLUDE (file_index, file_row_number),", 1)


def _sql(session: Session, files: Sequence[str], actual: Sequence[str], ids: Sequence[str]) -> str:
    for protocol in sorted({f.split("://")[0] for f in actual if "://" in f}):
        session.connection.register_filesystem(fsspec.filesystem(protocol))
    parquet = [i for i, f in enumerate(files) if not is_json(f)]
    lines = [i for i, f in enumerate(files) if is_json(f)]
    parts = []
    if parquet:
        listed = ", ".join(literal(actual[i]) for i in parquet)
        parts.append(_positioned(f"read_parquet([{listed}], union_by_name=true)", parquet))
    if lines:
        parts.append(_json_sql(session, [actual[i] for i in lines], lines, files[lines[0]], ids))
    return " UNION ALL BY NAME ".join(parts)


def _exact(session: Session, sql: str, columns: Mapping[str, str]) -> dict[str, str]:
    """Column -> type, for those of whole numbers of 128 bits: Parquet has no such type and would get rounded floats.

    DuckDB takes them where negative numbers meet unsigned ones, so 64 bits nearly always do; otherwise text does.
    """
    casts = {}
    for name, kind in columns.items():
        if _HUGE.search(kind):
            narrow, column = _HUGE.sub("BIGINT", kind), identifier(name)
            wide = f"SELECT bool_or(TRY_CAST({column} AS {narrow}) IS DISTINCT FROM {column}) FROM ({sql})"
            try:
                (too_wide,) = session.row(wide)
            except NagfastError:  # such as broken UTF-8 beside it, which the caller repairs
                too_wide = True
            casts[name] = _HUGE.sub("VARCHAR", kind) if too_wide else narrow
    return casts


def _cast(sql: str, casts: Mapping[str, str]) -> str:
    if not casts:
        return sql
    changed = ", ".join(f"CAST({identifier(c)} AS {kind}) AS {identifier(c)}" for c, kind in casts.items())
    return f"SELECT * REPLACE ({changed}) FROM ({sql})"


def _prepare(session: Session, files: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """File -> what DuckDB reads in its place, and file -> why it cannot be read."""
    actual, bad = {}, {}
    for file in files:
        try:
            if is_json(file):
                copy = session.folder / f"lines-{session.next_number():06d}.parquet"
                _copy_lines(file, copy)
                actual[file] = str(copy)
            else:
                with fsspec.open(file, "rb") as handle:
                    pq.read_schema(handle)
                actual[file] = file
        except _UNREADABLE as error:
            bad[file] = _reason(error)
    return actual, bad


def _reason(error: BaseException) -> str:
    """Why a file cannot be read, in one line and without its name."""
    inner = error.__cause__ if isinstance(error, UnreadableSourceError) and error.__cause__ else error
    return (str(inner).strip() or type(inner).__name__).splitlines()[0]


def open_relation(
    session: Session,
    paths: Paths,
    argument: str,
    quarantine: Quarantine | None = None,
    *,
    ids: Sequence[str] = IDS,
) -> Relation:
    """Files as one relation; files of different columns are taken together by name.

    Args:
        session: where it will be read.
        paths: Parquet and JSON lines files, folders, globs, fsspec URLs.
        argument: the argument's name, for the errors.
        quarantine: where files that cannot be read are noted; None makes the first of them an error.
        ids: columns of document ids, dotted names reaching into records; JSON lines give them as text.

    Raises:
        ArgumentError: no such file, or a column of a name that is needed here.
        NagfastError: a file cannot be read, or none of them can.
    """
    files = expand(paths, argument)
    actual, bad = _prepare(session, files)
    if bad and (quarantine is None or not actual):
        file, reason = next(iter(bad.items()))
        raise NagfastError(f"{file}: could not be read ({reason}); write the file again, or leave it out")
    for file, reason in bad.items():
        assert quarantine is not None
        quarantine.write_file(NamedFile(f"{argument.strip('-').lower()}-{files.index(file):06d}", file), reason)
    files = list(actual)
    sql = _sql(session, files, list(actual.values()), ids)
    columns = {name: kind for name, kind, *_ in session.rows(f"DESCRIBE {sql}")}
    del columns[POSITION]
    for name in columns:
        if name.lower() in _VIRTUAL:
            raise ArgumentError(f"{argument}: {files[0]}: the column name {name} is taken by the reader; rename it")
    casts = _exact(session, sql, columns)
    readable, unreadable = tuple(actual.values()), tuple(bad)
    return Relation(_cast(sql, casts), tuple(files), columns | casts, readable, unreadable, tuple(ids), casts)


@dataclass(frozen=True)
class NamedFile:
    """A file as the quarantine names it."""

    name: str
    path: str
