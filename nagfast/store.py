"""NAG stores: a folder of shards (shards.py) and nag.json (manifest.py), read in order, mapped, not copied."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nagfast import duck
from nagfast.errors import ArgumentError, NagfastError
from nagfast.manifest import local_folder, primary, read_manifest, shard_files
from nagfast.schema import NagBatch, NagSpec
from nagfast.shards import Shard, ShardReader, common_field, damaged, read_footer, require_spec
from nagfast.store_writer import StoreWriter

__all__ = ["NagStore", "StoreBatch", "StoreWriter", "open_many"]

_ROW = "__nagfast_row"


@dataclass
class StoreBatch:
    """Some consecutive documents of a store. The ids and kept columns are decoded when they are first looked at."""

    nags: NagBatch
    """NAGs and tokens; without `where` read-only views of the mapped file."""
    shard: Path
    """The file they come from."""
    _side: Callable[[], pa.Table] = field(repr=False)

    def __len__(self) -> int:
        return len(self.nags)

    @functools.cached_property
    def _table(self) -> pa.Table:
        return self._side()

    @property
    def docids(self) -> pa.ChunkedArray:
        """Document ids (string [n]).

        Raises:
            NagfastError: the column is damaged.
        """
        return self._table.column("docid")

    @property
    def columns(self) -> pa.Table:
        """The columns asked for, n rows.

        Raises:
            NagfastError: a column is damaged.
        """
        return self._table.drop_columns("docid")


class NagStore:
    """A NAG store on disk; nothing but footers is in memory.

    Attributes:
        path: the folder.
        specs: neuron type -> NagSpec.
        spec: the NagSpec of fwd_up where the store has it, else of its first neuron type.
        keep: names of the kept columns.
        shards: the files in the order they are read, by name.
        empty: documents without a NAG, as the writer counted them.
    """

    def __init__(self, path: Path | str) -> None:
        """See open."""
        self.path = local_folder(path)
        self.specs, self.keep = read_manifest(self.path)
        self.spec = self.specs[primary(self.specs)]
        self._shards = [self._checked(file) for file in shard_files(self.path)]
        self.shards = [shard.path for shard in self._shards]
        self.empty = sum(shard.empty for shard in self._shards)
        self._side_schema = self._unify()

    @classmethod
    def open(cls, path: Path | str) -> NagStore:
        """Open a store and check the manifest and the footer of every shard before anything is used.

        Raises:
            ArgumentError: the folder is no NAG store, or its nag.json is damaged or of another version.
            SpecMismatchError: a shard is of another identity or K than nag.json says.
            NagfastError: a shard is damaged or has missing or wrongly typed columns.
        """
        return cls(path)

    def _checked(self, file: Path) -> Shard:
        shard = read_footer(file)
        require_spec(shard, self.specs, self.path)
        if set(shard.kept.names) != set(self.keep):
            raise NagfastError(
                f"{file}: keeps columns {shard.kept.names} where {self.path} says {list(self.keep)}; "
                "remove the file and run extract again"
            )
        return shard

    def _unify(self) -> pa.Schema:
        """One type for each kept column: of JSON lines, one shard may hold integers and the next fractions or nulls."""
        fields = [pa.field("docid", pa.string()), pa.field("nag_tokens", pa.int32())]
        kept = [common_field(name, {shard.kept.field(name).type for shard in self._shards}) for name in self.keep]
        return pa.schema([*fields, *kept])

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    def __repr__(self) -> str:
        return f"NagStore({str(self.path)!r}, {len(self)} documents, {self.spec.describe()})"

    def spec_of(self, neuron_type: str | None = None, top_k: int | None = None) -> NagSpec:
        """The spec of a neuron type with K lowered.

        Raises:
            ArgumentError: the store has no such neuron type.
            SpecMismatchError: K is raised.
        """
        if neuron_type is not None and neuron_type not in self.specs:
            raise ArgumentError(f"neuron_type: got {neuron_type!r}; {self.path} holds {', '.join(self.specs)}")
        return self.specs[neuron_type or primary(self.specs)].with_top_k(top_k)

    def batches(
        self,
        rows: int = 65_536,
        *,
        neuron_type: str | None = None,
        top_k: int | None = None,
        columns: Sequence[str] = (),
        where: str | None = None,
    ) -> Iterator[StoreBatch]:
        """Stream the store in order, at most `rows` documents a batch.

        Batches end at row groups (16,384 documents), so that NAGs are views of the mapped file. Index values are not
        looked at: the scorer checks them, and so must whoever else uses them to address memory.

        Args:
            rows: most documents in a batch.
            neuron_type: which NAGs; None is the one of `spec`.
            top_k: lower K to this; the indices are then a strided view.
            columns: what StoreBatch.columns has: kept columns, or nag_tokens.
            where: SQL condition over docid, nag_tokens and kept columns; only documents it is true for. Their NAGs are
                copied, and these columns are in memory for one shard at a time.

        Raises:
            ArgumentError: an argument is wrong, the condition included.
            NagfastError: a shard is damaged (while iterating).
        """
        if rows < 1:
            raise ArgumentError(f"rows: got {rows}; use at least 1")
        spec = self.spec_of(neuron_type)
        spec.with_top_k(top_k)
        condition = _Condition(where, self._side_schema) if where is not None else None
        return self._iterate(rows, spec, top_k, self._names(columns), condition)

    def read(
        self, *, neuron_type: str | None = None, top_k: int | None = None, where: str | None = None
    ) -> tuple[list[str], NagBatch]:
        """The whole store, or the part a condition is true for, in memory (arguments and errors of batches).

        Returns:
            docids (n) and their NAGs, in store order.
        """
        parts = list(self.batches(neuron_type=neuron_type, top_k=top_k, where=where))
        docids = [docid for part in parts for docid in part.docids.to_pylist()]
        spec = self.spec_of(neuron_type, top_k)
        if not parts:
            shape = (0, spec.num_layers, spec.top_k)
            return docids, NagBatch(np.empty(shape, spec.index_dtype), np.empty(0, np.int32), spec)
        return docids, NagBatch.concatenate([part.nags for part in parts])

    def table(self, columns: Sequence[str] | None = None, *, where: str | None = None) -> pa.Table:
        """Document ids and other columns than the NAGs, in memory and in store order.

        Args:
            columns: kept columns and nag_tokens; None is all of them.
            where: as for batches.

        Raises:
            ArgumentError: a column the store has not, or a wrong condition.
            NagfastError: a shard is damaged.
        """
        names = self._names(["nag_tokens", *self.keep] if columns is None else columns)
        condition = _Condition(where, self._side_schema) if where is not None else None
        parts = []
        for shard in self._shards:
            whole = self._side(ShardReader(shard), self._side_schema.names if condition else names, None)
            parts.append((whole.take(condition.rows(whole)) if condition else whole).select(names))
        return (
            pa.concat_tables(parts) if parts else pa.schema([self._side_schema.field(n) for n in names]).empty_table()
        )

    @property
    def kept_schema(self) -> pa.Schema:
        """Names and types of the kept columns."""
        return pa.schema([self._side_schema.field(name) for name in self.keep])

    def provenance(self) -> dict[str, Any]:
        """What outputs record of this store: path, counts, specs, and where its shards were made differently."""
        notes = []
        for shard in self._shards:
            for name, spec in self.specs.items():
                notes += [f"{name}: {note}" for note in spec.provenance_notes(shard.specs[name])]
        return {
            "store": str(self.path),
            "rows": len(self),
            "empty": self.empty,
            "specs": {name: spec.to_dict() for name, spec in self.specs.items()},
            "notes": list(dict.fromkeys(notes)),
        }

    def _names(self, columns: Sequence[str]) -> list[str]:
        unknown = [name for name in columns if name not in self._side_schema.names]
        if unknown:
            have = ", ".join(["nag_tokens", *self.keep])
            raise ArgumentError(f"columns: {self.path} has no {unknown[0]!r}; it has {have}")
        return list(dict.fromkeys(["docid", *columns]))

    def _side(self, reader: ShardReader, names: Sequence[str], group: int | None) -> pa.Table:
        """Columns other than the NAGs, of a row group or of the whole shard (None), in the types of the store."""
        table = reader.table(names, range(reader.num_groups) if group is None else [group])
        wanted = pa.schema([self._side_schema.field(name) for name in names])
        try:
            return table.cast(wanted)
        except (pa.ArrowException, ValueError) as error:
            raise damaged(reader.path, error) from error

    def _iterate(
        self, rows: int, spec: NagSpec, top_k: int | None, names: list[str], condition: _Condition | None
    ) -> Iterator[StoreBatch]:
        for shard in self._shards:
            reader = ShardReader(shard)
            kept, taken = None, None
            if condition:
                whole = self._side(reader, self._side_schema.names, None)
                kept = condition.rows(whole)
                taken = whole.select(names).take(kept)
            first = 0
            for group in range(reader.num_groups):
                nags = _group_nags(reader, group, spec)
                group_rows = len(nags)
                side: Callable[[], pa.Table] = functools.cache(functools.partial(self._side, reader, names, group))
                if kept is not None and taken is not None:
                    low, high = np.searchsorted(kept, (first, first + group_rows))
                    chosen = kept[low:high] - first
                    nags = replace(nags, indices=nags.indices[chosen], tokens=nags.tokens[chosen])
                    side = functools.partial(taken.slice, low, high - low)
                first += group_rows
                for start in range(0, len(nags), rows):
                    part = slice(start, start + rows)
                    batch = replace(nags, indices=nags.indices[part], tokens=nags.tokens[part]).with_top_k(top_k)
                    load = functools.partial(_slice, side, start, rows, len(nags), shard.path)
                    yield StoreBatch(batch, shard.path, load)


def _group_nags(reader: ShardReader, group: int, spec: NagSpec) -> NagBatch:
    flat = reader.values(group, spec.neuron_type, spec.index_dtype, spec.row_bytes)
    tokens = reader.values(group, "nag_tokens", "<i4", 4)
    if len(tokens) * spec.num_layers * spec.top_k != len(flat):
        raise damaged(reader.path, f"{len(tokens)} rows of nag_tokens and {len(flat)} indices")
    return NagBatch(flat.reshape(-1, spec.num_layers, spec.top_k), tokens, spec)


def _slice(side: Callable[[], pa.Table], start: int, rows: int, total: int, path: Path) -> pa.Table:
    table = side()
    if len(table) != total:
        raise damaged(path, f"{len(table)} ids for {total} NAGs")
    return table.slice(start, rows)


class _Condition:
    """A SQL condition over the columns other than the NAGs, evaluated by DuckDB without access to files."""

    def __init__(self, where: str, schema: pa.Schema) -> None:
        """Try the condition on no rows, so that a wrong one is refused before anything is read."""
        self.where = where
        self._columns = schema.names
        self._duckdb = duck.load()
        self._database = self._duckdb.connect(":memory:", config={"enable_external_access": "false"})
        self.rows(schema.empty_table())

    def rows(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Row numbers the condition is true for, ascending (int64 [m])."""
        numbered = table.append_column(_ROW, pa.array(np.arange(len(table), dtype=np.int64)))
        try:
            self._database.register("nags", numbered)
            found = self._database.execute(f"SELECT {_ROW} FROM nags WHERE ({self.where}\n)").fetchnumpy()
            return np.sort(np.asarray(found[_ROW], dtype=np.int64))
        except (self._duckdb.Error, KeyError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            columns = ", ".join(self._columns)
            raise ArgumentError(f"where: {self.where!r}: {first}; it is SQL over {columns}") from error


def open_many(paths: Sequence[Path | str]) -> tuple[list[NagStore], list[str]]:
    """Open stores whose NAGs are to be used together.

    Returns:
        The stores, and notes on allowed differences (dtype, device, versions, K) for the provenance of the output.

    Raises:
        ArgumentError: no path, a path that is no store, or stores without a neuron type in common.
        SpecMismatchError: stores of different identity, both specs named.
    """
    if not paths:
        raise ArgumentError("paths: got none; give at least one NAG store")
    stores = [NagStore.open(path) for path in paths]
    head, notes = stores[0], []
    for store in stores[1:]:
        shared = [name for name in head.specs if name in store.specs]
        if not shared:
            mine, theirs = ", ".join(head.specs), ", ".join(store.specs)
            raise ArgumentError(f"{head.path} holds {mine} and {store.path} {theirs}; extract a neuron type both have")
        for name in shared:
            head.specs[name].require_same_identity(store.specs[name], str(head.path), str(store.path))
            if head.specs[name].top_k != store.specs[name].top_k:
                notes.append(f"{name}: K={head.specs[name].top_k} and K={store.specs[name].top_k}")
    notes += itertools.chain.from_iterable(store.provenance()["notes"] for store in stores)
    for store in stores[1:]:
        for name in head.specs.keys() & store.specs.keys():
            notes += [f"{name}: {note}" for note in head.specs[name].provenance_notes(store.specs[name])]
    return stores, list(dict.fromkeys(notes))
