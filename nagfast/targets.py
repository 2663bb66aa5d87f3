"""Target profiles: how often each neuron is in the NAGs of a target set, and how near a document is to it.

    c_l[k] = number of target NAGs that hold neuron k in layer l
    w_l[k] = c_l[k]^p / sum_k c_l[k]^p
    s(d)   = (1/L) sum_l sum_{k in NAG_l(d)} w_l[k]          distance = 1 - s

Sums are integers (ops.score) and are divided once. With p = 1 the table is the counts themselves and s is exact; with
another power it is the weights in steps of 2^-32, within K * 2^-32 of the float64 sum. Either way the result is the
same for any thread count, instruction set or order of documents.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nagfast import env, ops, reference
from nagfast.arrays import read_header
from nagfast.duck import Session, identifier
from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.files import atomic_path
from nagfast.relations import Paths, open_relation
from nagfast.schema import NagBatch, NagSpec

if TYPE_CHECKING:
    from nagfast.store import NagStore

Array = npt.NDArray[Any]

FIXED_POINT = 1 << 32
FORMAT = "nagfast profile 1"
MAX_JSON = 1 << 20  # characters of the spec and of the provenance in a file
_MEMBERS = ("format", "counts", "weights", "spec", "num_targets", "power", "provenance")


@dataclass(frozen=True, eq=False)
class TargetProfile:
    """Neuron frequencies of a target set; make one with fit, from_store or load."""

    counts: npt.NDArray[np.int64]
    """int64 [L, N], in how many target NAGs each neuron is; every layer sums to num_targets * K."""
    num_targets: int
    """Target documents that have a NAG."""
    spec: NagSpec
    """How the target's NAGs were made; documents to score need the same identity and at least this K."""
    power: float = 1.0
    """p, exponent of the frequencies."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the target came from: plain JSON values."""

    def __post_init__(self) -> None:
        shape = (self.spec.num_layers, self.spec.num_neurons)
        if self.counts.dtype != np.int64 or self.counts.shape != shape:
            raise ArgumentError(
                f"counts: got {self.counts.dtype} {list(self.counts.shape)}, the spec wants int64 {list(shape)}"
            )
        if not 1 <= self.num_targets < 1 << 32:
            raise ArgumentError(f"num_targets: got {self.num_targets}; a profile needs 1 to 2^32 - 1 target documents")
        if not (math.isfinite(self.power) and self.power > 0):
            raise ArgumentError(f"power: got {self.power}; use a number above 0")
        if self.counts.min() < 0 or self.counts.max() > self.num_targets:
            raise ArgumentError(f"counts: {self.counts.min()} to {self.counts.max()}, outside 0..{self.num_targets}")
        sums, want = self.counts.sum(axis=1), self.num_targets * self.spec.top_k
        if (sums != want).any():
            layer = int(np.flatnonzero(sums != want)[0])
            raise ArgumentError(f"counts: layer {layer} sums to {sums[layer]}, not num_targets * K = {want}")

    # --- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, nags: NagBatch, power: float = 1.0) -> Self:
        """Count the neurons of some target NAGs; documents without a NAG are left out.

        Args:
            nags: the target documents.
            power: exponent of the frequencies; 1 as published.

        Raises:
            ArgumentError: no document has a NAG.
        """
        counts, documents = ops.count(rows_in_order(nags.indices), nags.spec.num_neurons)
        _require_targets(documents, len(nags), "nags")
        return cls(counts, documents, nags.spec, float(power), _provenance(len(nags), documents))

    @classmethod
    def from_store(
        cls,
        store: NagStore,
        where: str | None = None,
        power: float = 1.0,
        *,
        top_k: int | None = None,
        neuron_type: str | None = None,
        payload: Paths | None = None,
        id_column: str = "docid",
    ) -> Self:
        """Count the neurons of a store's NAGs, a batch at a time.

        Args:
            store: NAGs of the target documents.
            where: SQL condition over docid, nag_tokens and the kept columns; default all documents.
            power: exponent of the frequencies.
            top_k: use the first K neurons of each layer; default all that are stored.
            neuron_type: default the store's own choice.
            payload: files with further columns for `where`, joined on docid; with them the ids and kept columns of the
                store are in memory. Documents that the payload does not hold are left out.
            id_column: column of the document id in the payload.

        Raises:
            ArgumentError: nothing is left after `where`, or no document that is left has a NAG.
        """
        wanted = None
        if payload is not None:
            wanted = _matching(store, payload, where, id_column)
        counts: Array | None = None
        spec: NagSpec | None = None
        rows = documents = 0
        for batch in store.batches(neuron_type=neuron_type, top_k=top_k, where=where if wanted is None else None):
            spec, indices = batch.nags.spec, batch.nags.indices
            if wanted is not None:
                indices = indices[pc.is_in(batch.docids, value_set=wanted).to_numpy()]
            found, with_nag = ops.count(rows_in_order(indices), spec.num_neurons)
            counts = found if counts is None else counts + found
            rows += len(indices)
            documents += with_nag
        what = f"{store.path}" + (f" where {where}" if where else "")
        _require_targets(documents, rows, what)
        assert counts is not None and spec is not None
        provenance = _provenance(rows, documents, where=where, store=str(store.path), notes=store.provenance()["notes"])
        return cls(counts, documents, spec, float(power), provenance)

    # --- using it -----------------------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        """W (float64 [L, N]), every layer summing to 1."""
        return reference.profile_weights(self.counts, self.power)

    def table(self) -> tuple[Array, int]:
        """What ops.score adds up (uint16 or uint32 [L, N]), and what its sums are divided by.

        With p = 1 the counts and L * num_targets * K; otherwise the weights in steps of 2^-32 and L * 2^32.
        """
        if self.power == 1.0:
            narrow = self.num_targets <= np.iinfo(np.uint16).max
            table = self.counts.astype(np.uint16 if narrow else np.uint32)
            return table, self.spec.num_layers * self.num_targets * self.spec.top_k
        fixed = np.minimum(np.rint(self.weights * FIXED_POINT), FIXED_POINT - 1).astype(np.uint32)
        return fixed, self.spec.num_layers * FIXED_POINT

    def require_comparable(self, spec: NagSpec, what: str, own: str = "the profile") -> None:
        """Check that NAGs of a spec can be scored against this profile.

        Raises:
            SpecMismatchError: another identity, or fewer neurons per layer than the profile counts.
        """
        self.spec.require_same_identity(spec, own, what)
        if spec.top_k < self.spec.top_k:
            raise SpecMismatchError(
                f"top_k: {own} ({self.spec.describe()}) counts K={self.spec.top_k} neurons per layer, {what} "
                f"({spec.describe()}) hold {spec.top_k}; make the profile with --top-k {spec.top_k} "
                f"or extract the documents with --top-k {self.spec.top_k}"
            )

    def align(self, nags: NagBatch, what: str = "the documents") -> NagBatch:
        """The same NAGs cut to this profile's K (errors of require_comparable)."""
        self.require_comparable(nags.spec, what)
        return nags.with_top_k(self.spec.top_k)

    def similarity(
        self, nags: NagBatch | Array, threads: int | None = None, backend: str = "auto"
    ) -> npt.NDArray[np.float64]:
        """S of every document (float64 [n], 0 to 1); 0 for a document without a NAG.

        Args:
            nags: NagBatch, or uint16 or uint32 [n, L, K] whose origin the caller answers for; a larger K is cut to
                the profile's.
            threads: CPU threads, default all.
            backend: auto, reference or cpp.

        Raises:
            SpecMismatchError: NAGs that may not be compared with this profile.
        """
        if isinstance(nags, NagBatch):
            indices = self.align(nags).indices
        else:
            indices = np.asarray(nags)
            layers, k = self.spec.num_layers, self.spec.top_k
            if indices.ndim != 3 or indices.shape[1] != layers or indices.shape[2] < k:
                raise SpecMismatchError(
                    f"nags: got shape {list(indices.shape)}; the profile wants [documents, {layers}, at least {k}]"
                )
            indices = indices[:, :, :k]
        table, denominator = self.table()
        sums = ops.score(rows_in_order(indices), table[:, :, None], threads=threads, backend=backend)
        return sums[:, 0] / float(denominator)

    def distance(
        self, nags: NagBatch | Array, threads: int | None = None, backend: str = "auto"
    ) -> npt.NDArray[np.float64]:
        """1 - similarity (float64 [n], 0 to 1, lower is nearer)."""
        return 1.0 - self.similarity(nags, threads, backend)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: Path | str) -> None:
        """Write one .npz, whole or not at all; the same profile makes the same bytes.

        Raises:
            NagfastError: the file cannot be written.
        """
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(
                handle,
                format=np.array(FORMAT),
                counts=self.counts,
                weights=self.weights,
                spec=np.array(self.spec.to_json()),
                num_targets=np.array(self.num_targets, np.int64),
                power=np.array(self.power, np.float64),
                provenance=np.array(json.dumps(self.provenance, sort_keys=True)),
            )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what save wrote; nothing in the file is run or believed unchecked.

        Raises:
            ArgumentError: no such file, not a profile, or a damaged one.
        """
        path = Path(path)
        if not path.is_file():
            raise ArgumentError(f"{path}: no such file; make a profile with nagfast profile STORE --out {path}")
        try:
            with zipfile.ZipFile(path) as archive:
                missing = [name for name in _MEMBERS if f"{name}.npy" not in archive.namelist()]
                if missing:
                    raise ArgumentError(f"{path}: not a target profile (it has no {', '.join(missing)})")
                return cls._read(archive, path)
        except ArgumentError as error:
            if str(error).startswith(str(path)):
                raise
            raise ArgumentError(f"{path}: {error}") from None
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, zlib.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ArgumentError(f"{path}: not a target profile, or damaged ({reason}); make it again") from error

    @classmethod
    def _read(cls, archive: zipfile.ZipFile, path: Path) -> Self:
        if (found := _text(archive, "format")) != FORMAT:
            raise ArgumentError(f"{path}: format {found!r}; this version reads {FORMAT!r}: make it again")
        spec = NagSpec.from_dict(json.loads(_text(archive, "spec")), str(path))
        shape = (spec.num_layers, spec.num_neurons)
        counts = _member(archive, "counts", np.dtype(np.int64), shape)
        stored = _member(archive, "weights", np.dtype(np.float64), shape)
        num_targets = int(_member(archive, "num_targets", np.dtype(np.int64), ()))
        power = float(_member(archive, "power", np.dtype(np.float64), ()))
        provenance = json.loads(_text(archive, "provenance"))
        if not isinstance(provenance, dict):
            raise ArgumentError(f"{path}: provenance is a {type(provenance).__name__}, not an object")
        profile = cls(counts, num_targets, spec, power, provenance)
        if not np.allclose(stored, profile.weights, rtol=1e-9, atol=1e-12):
            raise ArgumentError(f"{path}: the weights do not follow from the counts; damaged: make it again")
        return profile


def stack_tables(profiles: Sequence[TargetProfile]) -> tuple[Array, npt.NDArray[np.float64]]:
    """The tables of several profiles side by side (uint16 or uint32 [L, N, P]) and their denominators (float64 [P]).

    Raises:
        ArgumentError: no profiles.
        SpecMismatchError: profiles of different identity or K.
    """
    if not profiles:
        raise ArgumentError("profiles: got none; give at least one")
    first = profiles[0].spec
    for other in profiles[1:]:
        first.require_same_identity(other.spec, "a profile", "another profile")
        if other.spec.top_k != first.top_k:
            raise SpecMismatchError(f"top_k: profiles of K={first.top_k} and K={other.spec.top_k} in one table")
    tables, denominators = zip(*(p.table() for p in profiles), strict=True)
    dtype = np.uint32 if any(t.dtype == np.uint32 for t in tables) else np.uint16
    return np.stack([t.astype(dtype) for t in tables], axis=2), np.array(denominators, np.float64)


def _matching(store: NagStore, payload: Paths, where: str | None, id_column: str) -> pa.Array:
    """Ids of the documents of the store that the payload holds and `where` is true for, over the columns of both."""
    with Session(None) as session:
        relation = open_relation(session, payload, "--payload", ids=(id_column,))
        key = relation.find(id_column)
        if key is None:
            have = ", ".join(relation.columns)
            raise ArgumentError(f"--payload: {relation.files[0]}: no column {id_column!r}; it has {have}")
        own = store.table()
        names = {name.lower() for name in own.column_names}
        more = [identifier(c) for c in relation.columns if c.lower() not in names]
        columns = ", ".join([f"CAST({key} AS VARCHAR) AS docid", *more])
        session.run(f"CREATE TEMP TABLE payload AS SELECT {columns} FROM ({relation.sql})")
        session.connection.register("store", own)
        session.run("CREATE TEMP TABLE joined AS SELECT * FROM store JOIN payload USING (docid)")
        session.run("SET enable_external_access=false")  # the condition is somebody's text
        try:
            found = session.iterate(f"SELECT DISTINCT docid FROM joined WHERE ({where or 'true'}\n)")
            return pa.array([docid for (docid,) in found], pa.string())
        except NagfastError as error:
            have = ", ".join([*own.column_names, *more])
            raise ArgumentError(f"where: {where!r}: {error}; it is SQL over {have}") from error


def rows_in_order(indices: Array) -> Array:
    """NAGs whose neurons lie side by side in memory, as ops wants them; a prefix of a wider K is not copied."""
    return indices if indices.strides[-1] == indices.itemsize else np.ascontiguousarray(indices)


def _require_targets(documents: int, rows: int, what: str) -> None:
    if rows == 0:
        raise ArgumentError(f"empty target set: {what} has no documents; check the condition and the store")
    if documents == 0:
        raise ArgumentError(f"empty target set: none of the {rows} documents of {what} has a NAG; choose others")


def _provenance(rows: int, documents: int, **more: Any) -> dict[str, Any]:
    return more | {"documents": rows, "without_nag": rows - documents, "versions": env.core_versions()}


def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """One array, whose header must say what is expected before anything is allocated."""
    with archive.open(f"{name}.npy") as handle:
        found = read_header(handle)
        if found.dtype != dtype or found.shape != shape:
            raise ArgumentError(f"{name} is {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}: damaged")
    with archive.open(f"{name}.npy") as handle:
        return np.asarray(np.lib.format.read_array(handle, allow_pickle=False))


def _text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(f"{name}.npy") as handle:
        shape, _, dtype = read_header(handle)
        if shape != () or dtype.kind != "U" or dtype.itemsize > 4 * MAX_JSON:
            raise ArgumentError(f"{name} is {dtype} {list(shape)}, not one string: damaged")
    with archive.open(f"{name}.npy") as handle:
        return str(np.lib.format.read_array(handle, allow_pickle=False))
