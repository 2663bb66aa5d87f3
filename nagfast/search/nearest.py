"""NearestTargets: target NAGs and a method of searching them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import torch

from nagfast import env
from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.files import sync_folder, write_error
from nagfast.schema import NagBatch, NagSpec
from nagfast.search.base import Array, BuildOptions, Index
from nagfast.search.folder import (
    IndexRecord,
    id_column,
    prepare,
    read_record,
    read_targets,
    write_record,
    write_targets,
)
from nagfast.search.neighbors import Neighbors
from nagfast.targets import rows_in_order

if TYPE_CHECKING:
    from nagfast.store import NagStore

METHODS = {
    "exact": ("nagfast.search.exact", "ExactIndex"),
    "ivf": ("nagfast.search.ivf", "IvfIndex"),
    "faiss": ("nagfast.search.faiss_index", "FaissIndex"),
    "minhash": ("nagfast.search.minhash_index", "MinHashIndex"),
}
TUNED = ("ivf", "faiss")
OWN_OPTIONS = {"sketch": "faiss", "threshold": "minhash", "num_perm": "minhash"}
"""Options that only one method has."""
EXACT_UP_TO = 4096
"""Targets that `auto` searches exactly: below this an inverted file saves little."""


class NearestTargets:
    """For each document the most similar target documents; make one with build or open.

    Attributes:
        record: method, spec, parameters (the measured recall among them), options and provenance.
        docids: ids of the targets, row for row.
    """

    def __init__(self, index: Index, record: IndexRecord, nags: Any, docids: pa.ChunkedArray) -> None:
        """See build and open."""
        self.index, self.record, self.docids = index, record, docids
        self._nags = nags

    @classmethod
    def build(
        cls,
        targets: NagBatch,
        docids: Sequence[str] | pa.ChunkedArray | None = None,
        *,
        method: str = "auto",
        recall: float = 0.99,
        k: int = 10,
        seed: int = 0,
        threads: int | None = None,
        queries: NagBatch | None = None,
        sketch: str | None = None,
        threshold: float | None = None,
        num_perm: int | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> Self:
        """Index some target NAGs.

        Args:
            targets: at least one document.
            docids: their ids; default their row numbers.
            method: exact (every target is counted), ivf (lists, recall tuned and measured), faiss (sketches, smallest
                in memory), minhash (near-duplicates only), or auto: exact for up to EXACT_UP_TO targets, else ivf.
            recall: share of the k nearest that an approximate method is to find, ties counted as found.
            k: neighbours that recall is measured at.
            seed: the same seed gives the same index.
            threads: CPU threads, default all.
            queries: documents like those to come, to tune ivf or faiss on; default the targets themselves, each
                without itself.
            sketch: of faiss: pq (numbers, 4 bits for every eight; the default) or simhash (their signs, in a binary
                index).
            threshold: of minhash: Jaccard similarity below which targets are not returned; default 0.8.
            num_perm: of minhash: values in a signature; default 128.
            provenance: where the targets came from: plain JSON values.

        Raises:
            ArgumentError: no target, or an argument out of range.
            SpecMismatchError: the queries may not be compared with the targets.
            MissingDependencyError: the method needs a package that is not installed.
        """
        options = BuildOptions(recall=recall, k=k, seed=seed, threads=threads)
        if not len(targets):
            raise ArgumentError("targets: got none; an index needs at least one document")
        if method != "auto" and method not in METHODS:
            raise ArgumentError(f"method: got {method!r}; use one of auto, {', '.join(METHODS)}")
        if not 0 < recall <= 1 or k < 1:
            raise ArgumentError(f"recall, k: got {recall} and {k}; use a share up to 1 and at least 1")
        ids = id_column(map(str, range(len(targets))) if docids is None else docids)
        if len(ids) != len(targets) or ids.null_count:
            raise ArgumentError(f"docids: got {len(ids)}, {ids.null_count} of them null, for {len(targets)} targets")
        if method == "auto":
            method = "exact" if len(targets) <= EXACT_UP_TO else "ivf"
        nags = np.ascontiguousarray(targets.indices)
        own = _own_options(method, {"sketch": sketch, "threshold": threshold, "num_perm": num_perm})
        extra = {"kind" if name == "sketch" else name: value for name, value in own.items()}
        if queries is not None and method in TUNED:
            extra["sample"] = _aligned(targets.spec, queries, "the queries")
        begin = time.perf_counter()
        index = _class(method).build(nags, targets.spec.num_neurons, options, **extra)
        made = {"seconds": time.perf_counter() - begin, "versions": env.versions(), **env.git_state()}
        asked = asdict(options) | {"method": method} | own
        record = IndexRecord(
            method, targets.spec, len(targets), index.parameters, asked, {**(provenance or {}), "build": made}
        )
        return cls(index, record, nags, ids)

    @classmethod
    def from_store(
        cls,
        store: NagStore,
        *,
        where: str | None = None,
        neuron_type: str | None = None,
        top_k: int | None = None,
        **options: Any,
    ) -> Self:
        """Index the NAGs of a store.

        Args:
            store: NAGs of the target documents; they are read into memory.
            where: SQL condition over docid, nag_tokens and the kept columns.
            neuron_type: default the store's own choice.
            top_k: use the first K neurons of each layer.
            **options: as for build.

        Raises:
            ArgumentError: nothing is left after `where`; and as build.
        """
        docids, nags = store.read(neuron_type=neuron_type, top_k=top_k, where=where)
        if not docids:
            raise ArgumentError(f"{store.path}" + (f" where {where}" if where else "") + ": no documents")
        return cls.build(nags, docids, provenance={"source": store.provenance(), "where": where}, **options)

    def __len__(self) -> int:
        return self.record.targets

    def __repr__(self) -> str:
        return f"NearestTargets({self.method}, {len(self)} targets, {self.spec.describe()})"

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.record.method

    @property
    def spec(self) -> NagSpec:
        """How the target NAGs were made."""
        return self.record.spec

    @property
    def recall(self) -> float | None:
        """Recall as measured at build time; 1 where every target is counted, None for minhash, which measures none."""
        if self.method in ("exact", "gpu"):
            return 1.0
        found = self.record.parameters.get("recall")
        return None if found is None else float(found)

    @property
    def targets(self) -> NagBatch:
        """The target NAGs; tokens are not kept and read 0."""
        return NagBatch(self._nags, np.zeros(len(self), np.int32), self.spec)

    @property
    def rows(self) -> int:
        """Documents that a call of search should bring to be quick."""
        return int(getattr(self.index, "rows", 16_384))

    def require_comparable(self, spec: NagSpec, what: str) -> None:
        """Check that NAGs of a spec can be searched for.

        Raises:
            SpecMismatchError: another identity, or fewer neurons per layer than the index holds.
        """
        _require_comparable(self.spec, spec, what)

    def search(self, nags: NagBatch, k: int = 10, *, threads: int | None = None) -> Neighbors:
        """The k nearest targets of each document.

        Args:
            nags: documents of the same identity; a larger K is cut to the index's.
            k: neighbours, of exact and ivf up to 4,096; where there are fewer targets, or fewer were found, the rest
                is -1.
            threads: CPU threads, default all.

        Raises:
            SpecMismatchError: NAGs that may not be compared with the targets.
            ArgumentError: k out of range.
        """
        if k < 1:
            raise ArgumentError(f"k: got {k}; use at least 1")
        queries = _aligned(self.spec, nags, "the documents")
        counts, ids = self.index.search(queries, min(k, len(self)), threads=threads)
        if k > len(self):
            pad = ((0, 0), (0, k - len(self)))
            counts, ids = np.pad(counts, pad, constant_values=-1), np.pad(ids, pad, constant_values=-1)
        return Neighbors(counts, ids, self.spec.num_layers * self.spec.top_k)

    def to(self, device: str | torch.device) -> NearestTargets:
        """The same targets, searched exactly on a CUDA device; on "cpu" itself.

        Raises:
            ArgumentError: no such device.
            MissingDependencyError: triton is not installed.
            NagfastError: the targets do not fit the device.
        """
        picked = torch.device(device)
        if picked.type == "cpu":
            return self
        from nagfast.search.gpu import GpuIndex

        index: Any = GpuIndex(self._nags, self.spec.num_neurons, picked)
        record = replace(self.record, method="gpu", parameters={"device": str(picked)})
        return NearestTargets(index, record, self._nags, self.docids)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write the index into a folder of its own; index.json comes last.

        Raises:
            ArgumentError: the folder holds an index and `overwrite` is off, or something else.
            NagfastError: it cannot be written.
        """
        folder = Path(folder)
        if self.method not in METHODS:
            raise ArgumentError(f"save: the {self.method} index lives on its device; save the one it was made from")
        prepare(folder, overwrite)
        files = write_targets(folder, self._nags, self.docids)
        try:
            files += self.index.save(folder)
        except OSError as error:
            raise write_error(folder, error) from error
        sync_folder(folder)
        write_record(folder, self.record, files)

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open an index, every file checked against its checksum; the NAGs are mapped, not read into memory.

        Raises:
            ArgumentError: the folder is no index.
            NagfastError: it is damaged.
            MissingDependencyError: the method needs a package that is not installed.
        """
        folder = Path(folder)
        record = read_record(folder)
        if record.method not in METHODS:
            raise NagfastError(
                f"{folder}: method {record.method!r} is not known; use the nagfast that wrote it, or build it again"
            )
        nags, docids = read_targets(folder, record)
        index = _class(record.method).load(folder, nags, record.spec.num_neurons, record.parameters)
        return cls(index, record, nags, docids)


def _own_options(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; ArgumentError where the method does not have them."""
    own = {name: value for name, value in given.items() if value is not None}
    for name, value in own.items():
        if OWN_OPTIONS[name] != method:
            raise ArgumentError(f"{name}: got {value!r} with method {method}; only {OWN_OPTIONS[name]} has it")
    return own


def _class(method: str) -> Any:
    module, name = METHODS[method]
    return getattr(importlib.import_module(module), name)


def _require_comparable(spec: NagSpec, other: NagSpec, what: str) -> None:
    spec.require_same_identity(other, "the index", what)
    if other.top_k < spec.top_k:
        raise SpecMismatchError(
            f"top_k: the index ({spec.describe()}) holds K={spec.top_k} neurons per layer, {what} "
            f"({other.describe()}) hold {other.top_k}; build the index with --top-k {other.top_k}"
        )


def _aligned(spec: NagSpec, nags: NagBatch, what: str) -> Array:
    """Indices cut to the index's K (SpecMismatchError where they may not be compared)."""
    _require_comparable(spec, nags.spec, what)
    return rows_in_order(nags.with_top_k(spec.top_k).indices)
