"""Feature files of the published reference, read and written.

One document is {"docid": id, "<type>_feature": {"layer_topk_value_index": [L*K indices]}, ...}, layer-major, highest
impact first, as JSON lines or as Parquet with the same nesting. The files do not say what L, K or N are.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError
from nagfast.files import atomic_path
from nagfast.inputs import find_sources
from nagfast.jsonl import read_lines
from nagfast.records import Source, missing_column, open_source, unreadable
from nagfast.schema import MAX_UINT16_NEURONS

if TYPE_CHECKING:
    from nagfast.store import NagStore

Array = npt.NDArray[Any]

LIST = "layer_topk_value_index"
ROWS = 4_096
"""Documents held as Python objects at once."""
MAX_UINT32_NEURONS = 0xFFFF_FFFF


def write_reference_jsonl(
    store: NagStore,
    path: Path | str,
    *,
    neuron_types: Sequence[str] | None = None,
    top_k: int | None = None,
    where: str | None = None,
) -> tuple[int, int]:
    """Write a store as JSON lines of the reference, whole or not at all.

    Documents without a NAG are left out: the reference has no way to say it and fails on a list of another length.

    Args:
        store: what to write.
        path: the file.
        neuron_types: which features; None is all the store has.
        top_k: lower K to this.
        where: SQL condition, as for NagStore.batches.

    Returns:
        Documents written and documents left out.

    Raises:
        ArgumentError: a neuron type, K or condition does not fit the store.
        NagfastError: the store is damaged, or the file cannot be written.
    """
    names = list(neuron_types if neuron_types is not None else store.specs)
    if not names:
        raise ArgumentError("neuron_types: got none; name at least one")
    streams = [store.batches(ROWS, neuron_type=name, top_k=top_k, where=where) for name in names]
    written = left_out = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as out:
        for batches in zip(*streams, strict=True):
            empty = np.logical_or.reduce([batch.nags.empty for batch in batches])
            lists = [batch.nags.indices.reshape(len(batch), -1).tolist() for batch in batches]
            for i, docid in enumerate(batches[0].docids.to_pylist()):
                if empty[i]:
                    left_out += 1
                    continue
                features = {f"{n}_feature": {LIST: rows[i]} for n, rows in zip(names, lists, strict=True)}
                out.write(json.dumps({"docid": docid} | features) + "\n")
                written += 1
    return written, left_out


def read_reference(
    paths: Sequence[Path | str], feature: str, num_layers: int, top_k: int, num_neurons: int | None = None
) -> tuple[list[str], Array]:
    """Read feature files of the reference, every value checked.

    Args:
        paths: files, folders, globs or URLs of JSON lines or Parquet.
        feature: which one, <neuron type>_feature.
        num_layers: L of the files.
        top_k: K of the files.
        num_neurons: N of a layer; None does not limit the indices.

    Returns:
        docids (n) in the order of the files, and their NAGs (uint16 [n, L, K]; uint32 where N, or without it an index,
        asks for it). A document with an empty list has no NAG: the sentinel everywhere.

    Raises:
        ArgumentError: no such file or feature, or a document whose list is no list, has another length, has an index
            outside 0..N-1 or the same index twice in a layer; the file and row are named.
        UnreadableSourceError: a file cannot be read to its end.
    """
    if num_layers < 1 or top_k < 1:
        raise ArgumentError(f"num_layers and top_k: got {num_layers} and {top_k}; use at least 1")
    reader = _Reader(feature, num_layers, top_k, num_neurons)
    docids: list[str] = []
    parts: list[Array] = []
    for source in find_sources([str(path) for path in paths]):
        read = reader.parquet if source.format == "parquet" else reader.jsonl
        for ids, indices in read(source):
            docids += ids
            parts.append(indices)
    whole = np.concatenate(parts) if parts else np.empty((0, num_layers, top_k), np.uint32)
    largest = int(whole[whole != MAX_UINT32_NEURONS].max(initial=0))
    small = largest < MAX_UINT16_NEURONS if num_neurons is None else num_neurons <= MAX_UINT16_NEURONS
    return docids, whole.astype(np.uint16) if small else whole  # the uint32 sentinel is cut to that of uint16


class _Reader:
    """One feature of one shape, out of files of both formats, as uint32 with the uint32 sentinel."""

    def __init__(self, feature: str, num_layers: int, top_k: int, num_neurons: int | None) -> None:
        self.feature = feature
        self.shape = (num_layers, top_k)
        self.length = num_layers * top_k
        self.limit = MAX_UINT32_NEURONS if num_neurons is None else num_neurons

    def jsonl(self, source: Source) -> Iterator[tuple[list[str], Array]]:
        lines = ((row, line) for row, line in enumerate(read_lines(source)) if line.strip())
        while piece := list(itertools.islice(lines, ROWS)):
            found = [self._record(source, row, line) for row, line in piece]
            rows = [row for row, _ in piece]
            yield [docid for docid, _ in found], self._array(source, rows, [values for _, values in found])

    def _record(self, source: Source, row: int, line: bytes) -> tuple[str, list[int]]:
        try:
            record = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise _bad(source, row, "is not valid JSON") from None
        if not isinstance(record, dict):
            raise _bad(source, row, "is not a JSON object")
        if self.feature not in record:
            raise missing_column(source, self.feature, "the feature", list(record))
        held = record[self.feature]
        values = held.get(LIST) if isinstance(held, dict) else None
        if not isinstance(values, list) or not all(type(v) is int for v in values):
            raise _bad(source, row, f"has no list of whole numbers under {self.feature}.{LIST}")
        return _docid(source, row, record.get("docid")), values

    def _array(self, source: Source, rows: Sequence[int], lists: list[list[int]]) -> Array:
        full = [i for i, values in enumerate(lists) if values]
        for i in full:
            self._check_length(source, rows[i], len(lists[i]))
            outside = [v for v in (min(lists[i]), max(lists[i])) if not 0 <= v < self.limit]
            if outside:
                raise self._outside(source, rows[i], outside[0])
        values = np.array([lists[i] for i in full], dtype=np.uint32)
        return self._place(source, rows, full, values)

    def _check_length(self, source: Source, row: int, length: int) -> None:
        if length != self.length:
            layers, k = self.shape
            raise _bad(source, row, f"has {length} indices where L={layers} and K={k} make {self.length}")

    def _outside(self, source: Source, row: int, value: int) -> ArgumentError:
        return _bad(source, row, f"has index {value}, outside 0 to {self.limit - 1}")

    def _place(self, source: Source, rows: Sequence[int], full: Sequence[int] | Array, values: Array) -> Array:
        """[n, L, K] with the lists that are not empty (values [m, L*K]) at the positions `full` (m)."""
        nags = values.reshape(-1, *self.shape)
        ordered = np.sort(nags, axis=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=(1, 2))
        if twice.any():
            raise _bad(source, rows[full[int(twice.argmax())]], "has an index twice in a layer")
        placed = np.full((len(rows), *self.shape), MAX_UINT32_NEURONS, np.uint32)
        placed[np.asarray(full, dtype=np.int64)] = nags
        return placed

    def parquet(self, source: Source) -> Iterator[tuple[list[str], Array]]:
        with open_source(source) as handle:
            try:
                file = pq.ParquetFile(handle, pre_buffer=False)
                schema = file.schema_arrow
                batches = file.iter_batches(ROWS, columns=["docid", self.feature], use_threads=False)
                pieces = iter(batches)
            except Exception as error:
                raise unreadable(source, error) from error
            self._check_schema(source, schema)
            start = 0
            while True:
                try:
                    batch = next(pieces, None)
                except Exception as error:
                    raise unreadable(source, error) from error
                if batch is None:
                    return
                rows = range(start, start + len(batch))
                start += len(batch)
                yield self._ids(source, rows, batch), self._lists(source, rows, batch)

    def _check_schema(self, source: Source, schema: pa.Schema) -> None:
        for name in ("docid", self.feature):
            if schema.get_field_index(name) < 0:
                raise missing_column(source, name, "the feature" if name == self.feature else "the id", schema.names)
        kind = schema.field(self.feature).type
        inner = kind.field(LIST).type if pa.types.is_struct(kind) and kind.get_field_index(LIST) >= 0 else pa.null()
        listed = pa.types.is_list(inner) or pa.types.is_large_list(inner)
        if not listed or not pa.types.is_integer(inner.value_type):
            raise ArgumentError(
                f"{source.path}: {self.feature} is {kind}, not a struct with a list of whole numbers {LIST}"
            )

    def _ids(self, source: Source, rows: range, batch: pa.RecordBatch) -> list[str]:
        column = batch.column(batch.schema.get_field_index("docid"))
        try:
            values = column.to_pylist()
        except UnicodeDecodeError:
            raise ArgumentError(f"{source.path}: a docid in rows {rows[0]} to {rows[-1]} is not valid UTF-8") from None
        return [_docid(source, row, value) for row, value in zip(rows, values, strict=True)]

    def _lists(self, source: Source, rows: range, batch: pa.RecordBatch) -> Array:
        lists = pc.struct_field(batch.column(batch.schema.get_field_index(self.feature)), LIST)
        if lists.null_count:
            raise _bad(
                source, rows[int(np.asarray(lists.is_null()).argmax())], f"has no list under {self.feature}.{LIST}"
            )
        lengths = np.asarray(pc.list_value_length(lists))
        full = np.flatnonzero(lengths)
        for i in full[lengths[full] != self.length][:1]:
            self._check_length(source, rows[int(i)], int(lengths[i]))
        flat = pc.list_flatten(lists)
        if flat.null_count:
            raise _bad(source, rows[0], "or a later row has a null among its indices")
        values = flat.to_numpy(zero_copy_only=False).reshape(-1, self.length)
        outside = (values < 0) | (values >= self.limit)
        if outside.any():
            at = int(outside.any(axis=1).argmax())
            raise self._outside(source, rows[int(full[at])], int(values[at][outside[at]][0]))
        return self._place(source, rows, full, values.astype(np.uint32))


def _bad(source: Source, row: int, what: str) -> ArgumentError:
    return ArgumentError(f"{source.path}: row {row} {what}; check the file and its settings (L, K, feature)")


def _docid(source: Source, row: int, value: object) -> str:
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value):
        return str(value)
    raise _bad(source, row, f"has docid {value!r}, not an id")
