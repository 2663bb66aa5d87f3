"""The file of a pass over stores: docid, what was computed, and the columns kept in the stores, row for row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError
from nagfast.files import atomic_path
from nagfast.store import NagStore, StoreBatch


class ScoreFile:
    """A Parquet file in store order, written whole or not at all; use it as a context."""

    def __init__(
        self, out: Path | str, stores: Sequence[NagStore], fields: Sequence[pa.Field], record: Mapping[str, Any]
    ) -> None:
        """Settle the columns.

        Args:
            out: file to write.
            stores: where the rows come from; kept columns that not all stores have are null where they are missing.
            fields: the computed columns.
            record: provenance for the footer, under "nagfast": plain JSON values.

        Raises:
            ArgumentError: kept columns that do not go together, or one named like a computed column.
        """
        metadata = {"nagfast": json.dumps({**record, "stores": [s.provenance() for s in stores]}, sort_keys=True)}
        self.schema = pa.schema([pa.field("docid", pa.string()), *fields, *_kept(stores, fields)], metadata=metadata)
        self._out = Path(out)
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            path = stack.enter_context(atomic_path(self._out))
            # Distances look random: dictionaries and byte statistics do not pay; docids hardly repeat.
            self._writer = stack.enter_context(pq.ParquetWriter(path, self.schema, compression="zstd"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer = None
        self._stack.__exit__(kind, error, trace)

    def write(self, batch: StoreBatch, computed: Mapping[str, Any]) -> None:
        """Append a batch: its ids, the computed columns (name -> array of len(batch)) and its kept columns."""
        if self._writer is None:
            raise RuntimeError("ScoreFile: write outside its context")
        columns: dict[str, Any] = {"docid": batch.docids, **computed}
        kept = batch.columns
        for item in self.schema:
            if item.name in kept.column_names:
                columns[item.name] = kept.column(item.name).cast(item.type)
            elif item.name not in columns:
                columns[item.name] = pa.nulls(len(batch), item.type)
        self._writer.write_table(pa.table(columns, schema=self.schema))


def _kept(stores: Sequence[NagStore], fields: Sequence[pa.Field]) -> pa.Schema:
    kept = [store.kept_schema for store in stores]
    try:
        schema = pa.unify_schemas(kept, promote_options="permissive")
    except pa.ArrowException as error:
        raise ArgumentError(f"the stores' kept columns do not go together ({error}); use them one by one") from error
    taken = {"docid", *(f.name for f in fields)}
    for item in schema:
        if item.name in taken:
            raise ArgumentError(f"kept column {item.name!r} of a store is named like a computed column; rename it")
    return schema
