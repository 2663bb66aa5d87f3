"""Stores against an index, in constant memory: the nearest targets of every document, or the other way round.

Forward, one row per document in store order: docid, nag_distance (1 - the aggregate of its similarities, so that
`nagfast select` takes the file as it takes scores), nearest (target ids, nearest first), similarity, and the columns
kept in the stores. Reverse, one row per target: docid, nearest (document ids), similarity; always exact, the documents
are counted batch by batch. Ties go to the row that comes first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError
from nagfast.files import atomic_path
from nagfast.schema import NagBatch
from nagfast.score_file import ScoreFile
from nagfast.scoring import DISTANCE
from nagfast.search.bits import BitRows
from nagfast.search.nearest import NearestTargets
from nagfast.search.neighbors import BANDWIDTH, Neighbors, merge
from nagfast.store import NagStore, StoreBatch
from nagfast.targets import rows_in_order

REVERSE_ROWS = 65_536
FIELDS = (
    pa.field(DISTANCE, pa.float64()),
    pa.field("nearest", pa.list_(pa.string())),
    pa.field("similarity", pa.list_(pa.float64())),
)


@dataclass(frozen=True)
class QuerySummary:
    """What a query run did."""

    rows: int
    """Rows written."""
    documents: int
    """Documents read."""
    empty: int
    """Documents without a NAG among them: similarity 0."""
    alone: int
    """Rows without any neighbour: the method found none."""
    notes: tuple[str, ...]
    """Differences between index and stores that are allowed but worth knowing."""


def query_stores(
    index: NearestTargets,
    stores: Sequence[NagStore],
    out: Path | str,
    *,
    k: int = 10,
    aggregate: str = "max",
    bandwidth: float = BANDWIDTH,
    threads: int | None = None,
) -> QuerySummary:
    """The k nearest targets of every document of some stores.

    Args:
        index: the targets.
        stores: the documents, of the same identity.
        out: Parquet file to write, whole or not at all.
        k: neighbours of each document.
        aggregate: how the similarities become one (see Neighbors.aggregate).
        bandwidth: of the density.
        threads: CPU threads, default all.

    Raises:
        ArgumentError: an argument out of range.
        SpecMismatchError: NAGs that may not be compared.
        NagfastError: a store cannot be read or the file cannot be written.
    """
    notes = _check(index, stores)
    _no_rows(index, k).aggregate(aggregate, bandwidth)
    asked = {"k": k, "aggregate": aggregate} | ({"bandwidth": bandwidth} if aggregate == "density" else {})
    documents = empty = alone = 0
    with ScoreFile(out, stores, FIELDS, _record(index, asked, notes)) as file:
        for group in _groups(index, stores):
            nags = NagBatch.concatenate([b.nags for b in group]) if len(group) > 1 else group[0].nags
            found = index.search(nags, k, threads=threads)
            distances = 1.0 - found.aggregate(aggregate, bandwidth)
            first = 0
            for batch in group:
                part = slice(first, first + len(batch))
                near = _lists(Neighbors(found.counts[part], found.ids[part], found.size), index.docids)
                file.write(batch, {DISTANCE: pa.array(distances[part]), "nearest": near[0], "similarity": near[1]})
                first += len(batch)
            documents += len(nags)
            empty += int(nags.empty.sum())
            alone += int((found.ids[:, 0] < 0).sum())
    return QuerySummary(documents, documents, empty, alone, tuple(notes))


def query_reverse(
    index: NearestTargets,
    stores: Sequence[NagStore],
    out: Path | str,
    *,
    k: int = 10,
    threads: int | None = None,
) -> QuerySummary:
    """The k nearest documents of every target; arguments and errors of query_stores."""
    notes = _check(index, stores)
    spec, queries = index.spec, rows_in_order(index.targets.indices)
    found, documents, empty = _no_rows(index, k, len(index)), 0, 0
    for store in stores:
        for batch in store.batches(REVERSE_ROWS, neuron_type=spec.neuron_type, top_k=spec.top_k):
            bits = BitRows(rows_in_order(batch.nags.indices), spec.num_neurons, budget=0)
            counts, ids = bits.search(queries, k, threads=threads)
            here = Neighbors(counts, np.where(ids < 0, -1, ids + documents), found.size)
            found = merge(found, here)
            documents += len(batch)
            empty += int(batch.nags.empty.sum())
    near = _lists(*_named(stores, found))
    record = _record(index, {"k": k, "reverse": True}, notes) | {"stores": [s.provenance() for s in stores]}
    columns = {"docid": index.docids, "nearest": near[0], "similarity": near[1]}
    schema = pa.schema([pa.field("docid", pa.string()), *FIELDS[1:]], metadata={"nagfast": json.dumps(record)})
    with atomic_path(Path(out)) as path:
        pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
    return QuerySummary(len(index), documents, empty, int((found.ids[:, 0] < 0).sum()), tuple(notes))


def _check(index: NearestTargets, stores: Sequence[NagStore]) -> list[str]:
    if not stores:
        raise ArgumentError("stores: got none; give at least one NAG store")
    notes = []
    for store in stores:
        spec = store.spec_of(index.spec.neuron_type)
        index.search(
            NagBatch(np.empty((0, spec.num_layers, spec.top_k), spec.index_dtype), np.empty(0, np.int32), spec)
        )
        found = index.spec.provenance_notes(spec)
        if spec.top_k != index.spec.top_k:
            found.append(f"K={index.spec.top_k} and K={spec.top_k}")
        notes += [f"the index and {store.path}: {note}" for note in found]
    return list(dict.fromkeys(notes))


def _no_rows(index: NearestTargets, k: int, rows: int = 0) -> Neighbors:
    if k < 1:
        raise ArgumentError(f"k: got {k}; use at least 1")
    shape = (rows, k)
    size = index.spec.num_layers * index.spec.top_k
    return Neighbors(np.full(shape, -1, np.int32), np.full(shape, -1, np.int64), size)


def _groups(index: NearestTargets, stores: Sequence[NagStore]) -> Iterator[list[StoreBatch]]:
    """Batches taken together, so that a call brings as many documents as the index wants."""
    group: list[StoreBatch] = []
    spec = index.spec
    for store in stores:
        top_k = min(spec.top_k, store.specs[spec.neuron_type].top_k)
        for batch in store.batches(neuron_type=spec.neuron_type, top_k=top_k, columns=store.keep):
            group.append(batch)
            if sum(map(len, group)) >= index.rows:
                yield group
                group = []
    if group:
        yield group


def _lists(found: Neighbors, docids: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Ids and similarities as lists, without what was not found."""
    there = found.ids >= 0
    offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
    names = docids.take(pa.array(found.ids[there])).combine_chunks()
    similarity = pa.array(found.similarity[there])
    return pa.ListArray.from_arrays(offsets, names), pa.ListArray.from_arrays(offsets, similarity)


def _named(stores: Sequence[NagStore], found: Neighbors) -> tuple[Neighbors, pa.ChunkedArray]:
    """Ids of the documents found, and `found` counting in them: one more pass over the id columns where needed."""
    wanted = np.unique(found.ids[found.ids >= 0])
    parts, first = [], 0
    for store in stores:
        for batch in store.batches():
            low, high = np.searchsorted(wanted, (first, first + len(batch)))
            if high > low:
                parts.append(batch.docids.take(pa.array(wanted[low:high] - first)).combine_chunks())
            first += len(batch)
    positions = np.where(found.ids < 0, -1, np.searchsorted(wanted, found.ids))
    return Neighbors(found.counts, positions, found.size), pa.chunked_array(parts, pa.string())


def _record(index: NearestTargets, asked: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    record = index.record
    return {
        "index": {"method": record.method, "spec": record.spec.to_dict(), "targets": record.targets}
        | {"parameters": record.parameters, "options": record.options, "provenance": record.provenance},
        "query": asked,
        "notes": list(notes),
    }
