"""Files of the published reference as arrays and tables: features, sliced features, merged selections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError, NagfastError
from nagfast.files import atomic_path
from nagfast.relations import expand
from nagfast.schema import NEURON_TYPES, NagBatch, NagSpec

Array = npt.NDArray[Any]

ORIGIN = "reference features"  # stands in for the fingerprint that such files do not have
LIST = "layer_topk_value_index"
BLOCK = 1 << 26  # bytes of JSON parsed at once; a record must fit


# --- features ---------------------------------------------------------------------------------------------------------


def read_features(pattern: str, feature_col: str, num_layers: int, top_k: int) -> tuple[list[str], Array]:
    """Ids and NAGs (uint16 or uint32 [n, L, K]) of feature files or of a NAG store.

    Args:
        pattern: glob of JSON lines or Parquet files, or the folder of a store.
        feature_col: <neuron type>_feature.
        num_layers: L of the file.
        top_k: K of the file; of a store, the K to use.

    Raises:
        ArgumentError: nothing there, or another shape.
    """
    if (Path(pattern) / "nag.json").is_file():
        from nagfast.store import NagStore

        docids, nags = NagStore.open(pattern).read(neuron_type=feature_col.removesuffix("_feature"), top_k=top_k)
        if nags.spec.num_layers != num_layers:
            raise ArgumentError(f"--num_layers: got {num_layers}; {pattern} has {nags.spec.num_layers}")
        return docids, nags.indices
    from nagfast.interchange import read_reference

    docids, indices = read_reference([pattern], feature_col, num_layers, top_k)
    return list(docids), indices


def as_batches(parts: Sequence[Array], feature_col: str) -> list[NagBatch]:
    """Arrays of one origin (uint16 or uint32 [n, L, K]) as NAGs with a spec in common.

    N is not in such files: it is the largest index among all parts and one. A document that holds its dtype's largest
    value has no NAG.
    """
    empty = [part[:, 0, 0] == np.iinfo(part.dtype).max for part in parts]
    largest = max(int(part[~none].max(initial=0)) for part, none in zip(parts, empty, strict=True))
    layers, top_k = parts[0].shape[1:]
    kind = feature_col.removesuffix("_feature")
    kind = kind if kind in NEURON_TYPES else "fwd_up"
    spec = NagSpec(ORIGIN, layers, max(largest + 1, top_k), top_k, kind)
    found = []
    for part, none in zip(parts, empty, strict=True):
        indices = part.astype(spec.index_dtype)
        indices[none] = spec.sentinel
        found.append(NagBatch(indices, np.zeros(len(part), np.int32), spec))
    return found


# --- layers -----------------------------------------------------------------------------------------------------------


def parse_layers(text: str, num_layers: int) -> list[int]:
    """Layers that "last", "first" or numbers from 0 with commas mean, ascending, once each.

    Raises:
        ArgumentError: no number, or none of the layers.
    """
    if text in {"last", "first"}:
        return [num_layers - 1 if text == "last" else 0]
    try:
        layers = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        layers = []
    if not layers or layers[0] < 0 or layers[-1] >= num_layers:
        raise ArgumentError(f"--layers: got {text!r}; use last, first, or some of 0 to {num_layers - 1} with commas")
    return layers


def slice_features(
    pattern: str, out: str, *, feature_col: str, num_layers: int, top_k: int, layers: Sequence[int]
) -> int:
    """Write feature files as one Parquet file with some layers of one column; a file is in memory at a time.

    Args:
        pattern: glob of JSON lines or Parquet files.
        out: Parquet file to write; other columns come along.
        feature_col: column to cut.
        num_layers: L of the files.
        top_k: K of the files.
        layers: to keep, ascending.

    Returns:
        Rows written.

    Raises:
        ArgumentError: nothing there, no such column, or another shape.
        NagfastError: a file cannot be read or written.
    """
    schema, writer, rows, path = None, None, 0, pattern
    with atomic_path(out) as temporary:
        try:
            for path in expand(pattern, "--input_glob"):
                table = _feature_table(path, feature_col)
                sliced = _slice(table[feature_col], layers, num_layers, top_k, path)
                table = table.set_column(table.column_names.index(feature_col), feature_col, sliced)
                schema = schema or table.schema.remove_metadata()
                writer = writer or pq.ParquetWriter(temporary, schema, compression="zstd")
                writer.write_table(pa.table([_column(table, item) for item in schema], schema=schema))
                rows += len(table)
        except pa.ArrowException as error:
            raise NagfastError(f"{path}: cannot be read as features ({error})") from error
        finally:
            if writer is not None:
                writer.close()
    return rows


def _feature_table(path: str, feature_col: str) -> pa.Table:
    feature = pa.struct([(LIST, pa.list_(pa.int64()))])
    if path.lower().endswith((".parquet", ".pq", ".parq")):
        table = pq.read_table(path)
    else:
        compression = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}.get(Path(path).suffix.lower())
        explicit = pj.ParseOptions(explicit_schema=pa.schema([("docid", pa.string()), (feature_col, feature)]))
        with pa.input_stream(path, compression=compression) as stream:
            table = pj.read_json(stream, pj.ReadOptions(block_size=BLOCK), explicit)
    if feature_col not in table.column_names:
        have = ", ".join(table.column_names)
        raise ArgumentError(f"--feature_col: {path} has no column {feature_col!r}; it has {have}")
    return table


def _slice(column: pa.ChunkedArray, layers: Sequence[int], num_layers: int, top_k: int, path: str) -> pa.Array:
    """Some layers of a column of {LIST: L*K numbers} records."""
    rows = column.combine_chunks()
    lists = pa.concat_arrays([c.field(0) for c in rows.chunks]) if isinstance(rows, pa.ChunkedArray) else rows.field(0)
    lengths = np.diff(np.asarray(lists.offsets))
    if rows.null_count or lists.null_count or (lengths != num_layers * top_k).any():
        bad = int(np.flatnonzero(lengths != num_layers * top_k)[:1].sum())
        raise ArgumentError(
            f"{path}: row {bad} has {lengths[bad]} indices, not --num_layers {num_layers} x --top_k {top_k}"
        )
    numbers = np.asarray(lists.flatten()).reshape(-1, num_layers, top_k)[:, list(layers)].reshape(-1)
    offsets = np.arange(len(lists) + 1, dtype=np.int32) * (len(layers) * top_k)
    return pa.StructArray.from_arrays([pa.ListArray.from_arrays(offsets, numbers.astype(np.int64))], names=[LIST])


# --- selections -------------------------------------------------------------------------------------------------------


def merge_selections(paths: Sequence[str], out: str, *, deduplicate: bool) -> int:
    """Write some Parquet files one after the other; columns that a file has not are null in its rows.

    Args:
        paths: the files; a batch of rows is in memory at a time, and with deduplicate all docids.
        out: Parquet file to write.
        deduplicate: keep only the first row of each docid.

    Returns:
        Rows written.

    Raises:
        ArgumentError: no such file, columns that do not go together, or no docid to deduplicate by.
        NagfastError: a file cannot be read or written.
    """
    try:
        schema = pa.unify_schemas([_schema(path) for path in paths], promote_options="permissive")
    except pa.ArrowException as error:
        raise ArgumentError(f"--input_paths: the files' columns do not go together ({error})") from error
    if deduplicate and "docid" not in schema.names:
        raise ArgumentError(f"--deduplicate: {paths[0]} has no column 'docid'")
    seen: set[Any] = set()
    rows = 0
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches():
                table = pa.Table.from_batches([batch])
                if deduplicate:
                    table = table.filter(_first_seen(table["docid"].to_pylist(), seen))
                writer.write_table(pa.table([_column(table, item) for item in schema], schema=schema))
                rows += len(table)
    return rows


def _schema(path: str) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except FileNotFoundError:
        raise ArgumentError(f"--input_paths: {path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        raise NagfastError(f"{path}: not a readable Parquet file ({error})") from error


def _column(table: pa.Table, item: pa.Field) -> Any:
    return table[item.name].cast(item.type) if item.name in table.column_names else pa.nulls(len(table), item.type)


def _first_seen(docids: Sequence[Any], seen: set[Any]) -> pa.Array:
    first = []
    for docid in docids:
        first.append(docid not in seen)
        seen.add(docid)
    return pa.array(first, pa.bool_())
