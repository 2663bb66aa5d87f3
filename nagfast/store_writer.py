"""Writing NAG stores: shard by shard, each whole or not at all, going on where a killed run stopped."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.files import clean_temporaries, make_folder, remove
from nagfast.manifest import (
    MANIFEST,
    is_store,
    local_folder,
    primary,
    read_manifest,
    shard_files,
    write_manifest,
)
from nagfast.schema import NagSpec
from nagfast.shards import (
    RESERVED,
    check_indices,
    may_be_shard,
    nag_array,
    read_footer,
    require_spec,
    write_shard,
)

Array = npt.NDArray[Any]

_SHARD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


class StoreWriter:
    """Writes shards into a store; several processes may write different shards of one store."""

    def __init__(
        self, path: Path | str, specs: Mapping[str, NagSpec], keep: Sequence[str] = (), *, overwrite: bool = False
    ) -> None:
        """Create a store, or go on with one that has the same identity, K, neuron types and kept columns.

        Args:
            path: folder of the store; created where it does not exist.
            specs: neuron type -> how its NAGs are made.
            keep: names of the columns that are copied from the text to the store.
            overwrite: remove the shards of a store that is there. Other files are never removed. Where several
                processes write one store, only one may overwrite, before the others start.

        Raises:
            ArgumentError: the folder holds something else, or a store with other kept columns or neuron types.
            SpecMismatchError: the folder holds a store of another identity or K.
            NagfastError: the folder cannot be written to.
        """
        self.path = local_folder(path)
        self.specs, self.keep = dict(specs), tuple(keep)
        self._agreed: set[str] = set()  # names of sources whose shards are known to be made alike
        self._check_arguments()
        make_folder(self.path)
        clean_temporaries(self.path)
        if (self.path / MANIFEST).exists():
            if not overwrite:
                self._check_same()
                return
            self._remove_shards()
        elif any(not p.name.startswith(".") for p in self.path.iterdir()) and not (self.path / MANIFEST).exists():
            raise ArgumentError(
                f"{self.path}: the folder is not empty and not a NAG store (no {MANIFEST}); give a new folder"
            )
        write_manifest(self.path, self.specs, self.keep, replace=overwrite)
        self._check_same()  # another process may have been first

    def _check_arguments(self) -> None:
        if not self.specs:
            raise ArgumentError("specs: got none; give a NagSpec for at least one neuron type")
        for name, spec in self.specs.items():
            if name != spec.neuron_type:
                raise ArgumentError(f"specs: the spec of {name} is one of {spec.neuron_type}; use the same name")
        taken = [name for name in self.keep if name in {*RESERVED, *self.specs} or self.keep.count(name) > 1]
        if taken:
            raise ArgumentError(f"keep: {taken[0]} is a column of the store already; leave it out of --keep")

    def _check_same(self) -> None:
        mend = "give another --out, or --overwrite to replace the store"
        specs, keep = read_manifest(self.path)
        if set(specs) != set(self.specs):
            raise ArgumentError(
                f"{self.path}: holds {', '.join(specs)}, this run makes {', '.join(self.specs)}; {mend}"
            )
        for name, spec in self.specs.items():
            try:
                spec.require_same_identity(specs[name], "this run", f"the store {self.path}")
            except SpecMismatchError as error:
                raise SpecMismatchError(f"{error}, or {mend}") from None
            if spec.top_k != specs[name].top_k:
                raise SpecMismatchError(
                    f"{self.path}: {name} is stored with K={specs[name].top_k}, this run has K={spec.top_k}; {mend}"
                )
        if keep != self.keep:
            raise ArgumentError(f"{self.path}: keeps columns {list(keep)}, this run keeps {list(self.keep)}; {mend}")

    def _remove_shards(self) -> None:
        if not is_store(self.path):
            raise ArgumentError(
                f"{self.path / MANIFEST}: is not of a NAG store, nothing was removed; give another --out"
            )
        for path in shard_files(self.path):
            if not may_be_shard(path):
                raise ArgumentError(f"{path}: is not a shard, nothing was removed; move it, or give another --out")
        for path in shard_files(self.path):
            remove(path)

    @functools.cached_property
    def _sources(self) -> dict[str, dict[str, Any] | None]:
        return {path.stem: self._source_of(path) for path in shard_files(self.path)}

    def _source_of(self, path: Path) -> dict[str, Any] | None:
        """Source record of a whole shard of this store, else None."""
        try:
            shard = read_footer(path)
            require_spec(shard, self.specs, self.path)
        except NagfastError:
            return None
        return shard.source if set(shard.kept.names) == set(self.keep) else None

    def has(self, shard: str, source: Mapping[str, Any]) -> bool:
        """Whether a whole shard of that name made from the same source record is there.

        Args:
            shard: name without ".parquet".
            source: the record given to write; it is compared as JSON.
        """
        if shard not in self._sources and (path := self._file(shard)).exists():  # another process wrote it meanwhile
            self._sources[shard] = self._source_of(path)
        found = self._sources.get(shard)
        return found is not None and found == json.loads(json.dumps(dict(source)))

    def write(
        self,
        shard: str,
        docids: Sequence[str],
        tokens: Array,
        indices: Mapping[str, Array],
        kept: pa.Table | None,
        source: Mapping[str, Any],
    ) -> None:
        """Write a shard, whole or not at all; one of that name is replaced.

        Shards made from the same source["name"] under other conditions (the record differs in more than "chunk": the
        file changed, or is cut into other pieces) are removed first, so that no document is in the store twice.

        Args:
            shard: name without ".parquet": letters, digits, dots, dashes and underscores.
            docids: n ids.
            tokens (int32 [n]): tokens the backbone saw.
            indices (uint16 or uint32 [n, L, K] per neuron type): the NAGs, the sentinel in documents that have none.
            kept: the kept columns, n rows; None where there are none.
            source: plain JSON values that say which piece of which input this is.

        Raises:
            ArgumentError: shapes, dtypes, values or names do not fit the specs of the store, or shards of the same
                source name were made otherwise (require_same_source).
            NagfastError: the file cannot be written.
        """
        path = self._file(shard)
        if source.get("name") not in self._agreed:
            self.require_same_source(source)
        table = self._table(docids, np.asarray(tokens), indices, kept)
        first = primary(self.specs)
        record = {
            "specs": {name: spec.to_dict() for name, spec in self.specs.items()},
            "source": json.loads(json.dumps(dict(source))),
            "rows": len(docids),
            "empty": int((indices[first][:, 0, 0] == self.specs[first].sentinel).sum()),
        }
        write_shard(path, table, self.specs, record)
        self._sources[shard] = record["source"]

    def _file(self, shard: str) -> Path:
        if not _SHARD_NAME.fullmatch(shard):
            raise ArgumentError(f"shard: got {shard!r}; use up to 200 letters, digits, dots, dashes and underscores")
        return self.path / f"{shard}.parquet"

    def _table(
        self, docids: Sequence[str], tokens: Array, indices: Mapping[str, Array], kept: pa.Table | None
    ) -> pa.Table:
        if tokens.shape != (len(docids),) or tokens.dtype != np.int32:
            raise ArgumentError(f"tokens: got {tokens.dtype} {list(tokens.shape)}, want int32 [{len(docids)}]")
        if set(indices) != set(self.specs):
            raise ArgumentError(f"indices: got {', '.join(indices)}; the store holds {', '.join(self.specs)}")
        for name, spec in self.specs.items():
            check_indices(indices[name], spec, f"indices[{name!r}]")
            if len(indices[name]) != len(docids):
                raise ArgumentError(f"indices[{name!r}]: got {len(indices[name])} rows for {len(docids)} docids")
        names = kept.column_names if kept is not None else []
        if sorted(names) != sorted(self.keep) or (kept is not None and len(kept) != len(docids)):
            rows = len(kept) if kept is not None else 0
            raise ArgumentError(
                f"kept: got columns {names} of {rows} rows; the store keeps {list(self.keep)}, {len(docids)} rows here"
            )
        try:
            ids = pa.array(docids, pa.string())
        except (pa.ArrowException, UnicodeError, TypeError) as error:
            raise ArgumentError(f"docids: not all are strings of valid Unicode ({error})") from error
        if ids.null_count:
            raise ArgumentError(f"docids: {ids.null_count} are None; leave such documents out")
        fields = [pa.field("docid", pa.string(), nullable=False), pa.field("nag_tokens", pa.int32(), nullable=False)]
        columns = [ids, pa.array(tokens, pa.int32())]
        if kept is not None:
            fields += [kept.schema.field(name).remove_metadata() for name in self.keep]
            columns += [kept.column(name) for name in self.keep]
        for name, spec in self.specs.items():
            fields.append(pa.field(name, pa.binary(spec.row_bytes), nullable=False))
            columns.append(nag_array(indices[name], spec))
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    def require_same_source(self, source: Mapping[str, Any]) -> None:
        """Check that shards of a source that are here were made from it, and as it is read now.

        Args:
            source: record of the source; `chunk` does not count.

        Raises:
            ArgumentError: shards of the same name were made from other content, other columns or other row cuts.
        """
        if "name" not in source:
            return
        now = {name: value for name, value in source.items() if name != "chunk"}
        for shard, record in self._sources.items():
            if record is None or record.get("name") != now.get("name"):
                continue
            then = {name: value for name, value in record.items() if name != "chunk"}
            if then != now:
                differing = sorted(n for n in then.keys() | now.keys() if then.get(n) != now.get(n))
                pairs = ", ".join(f"{n} {then.get(n)!r} then and {now.get(n)!r} now" for n in differing)
                raise ArgumentError(
                    f"{self._file(shard)}: was made from a source of the same name that differs ({pairs}); "
                    "give another --out, or --overwrite to replace the store"
                )
        self._agreed.add(str(source["name"]))
