"""Nearest targets by FAISS: count sketches of the NAGs, an approximate index over them, exact re-ranking of its finds.

A sketch holds the weighted set of a NAG in d numbers. kind "pq" keeps 4 bits for every eight of them (IVF,
PQ fast-scan), kind "simhash" their signs (binary IVF); small target sets are searched through and through. The best
`candidates` by sketch are re-ranked by neurons in common, counted exactly. Both numbers that trade speed for
recall, `candidates` and `probes`, are chosen at build time on targets taken as queries.

FAISS keeps one number of threads for the whole process; it is set for the length of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nagfast import ops, similarity
from nagfast.arrays import read_array
from nagfast.errors import ArgumentError, NagfastError, missing
from nagfast.search import faiss_gpu
from nagfast.search.base import BuildOptions, Found
from nagfast.search.faiss_tuning import tune

Array = npt.NDArray[Any]
# Neurons that share a place of a short sketch blur more than coarse codes of a long one do.
DIMENSIONS = {"pq": 4096, "simhash": 2048}
PLACES_PER_CODE = 8  # of 4 bits: 256 bytes a target
IDF_POWER = 0.25  # on synthetic NAGs more helps nowhere, and hurts where clusters are not plain
EXHAUSTIVE = 8_192  # targets that need no lists
ROWS = 4_096  # documents sketched or searched together
TRAIN_PER_LIST, TRAIN_MOST = 40, 65_536  # sketches; of 16 KB each
INDEX_FILE, WEIGHTS_FILE = "faiss.index", "faiss.weights.npy"


def import_faiss() -> Any:
    """The module, or an error with the line that installs it."""
    try:
        import faiss
    except ImportError:
        raise missing("faiss", "faiss-cpu", "the faiss index") from None
    return faiss


@contextmanager
def faiss_threads(faiss: Any, threads: int | None) -> Iterator[None]:
    """Set FAISS's number of threads and put it back."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(ops.thread_count(threads))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class FaissIndex:
    """Sketches in a FAISS index, exact re-ranking; method "faiss" of nagfast.search.base.Index.

    On a machine where FAISS sees a GPU the sketches are searched there (nagfast.search.faiss_gpu; untested on a real
    GPU so far). Recall as measured at build time is in parameters["recall"]; it is below what was asked for where
    even the largest settings did not reach it.

    Args:
        nags: target NAGs (uint16 or uint32 [n, L, K]), kept for re-ranking.
        weights: sketch weight of each neuron (float32 [L, N]).
        index: FAISS index over the sketches.
        parameters: kind, structure, dimensions, seed, recall_at, and what tuning settled (search/faiss_tuning.py).
    """

    method: ClassVar[str] = "faiss"

    def __init__(self, nags: Array, weights: npt.NDArray[np.float32], index: Any, parameters: dict[str, Any]) -> None:
        self.nags = nags
        self.weights = weights
        self.index = index
        self.parameters = parameters

    @classmethod
    def build(
        cls,
        nags: Array,
        num_neurons: int,
        options: BuildOptions,
        *,
        kind: str = "pq",
        sample: Array | None = None,
    ) -> Self:
        """Build from target NAGs (uint16 or uint32 [n, L, K], n at least 1).

        Args:
            nags: targets.
            num_neurons: N.
            options: recall and k to tune to, seed, threads.
            kind: pq or simhash.
            sample: queries like those to come (uint16 or uint32 [q, L, K]); default some of the targets, each without
                finding itself.
        """
        faiss = import_faiss()
        if kind not in DIMENSIONS:
            raise ArgumentError(f"kind: got {kind!r}; use one of {', '.join(DIMENSIONS)}")
        if len(nags) == 0:
            raise ArgumentError("nags: got no targets; give at least one")
        weights = sketch_weights(nags, num_neurons, options.threads)
        parameters = {"kind": kind, "dimensions": DIMENSIONS[kind], "seed": options.seed, "recall_at": options.k}
        with faiss_threads(faiss, options.threads):
            index, structure = _empty_index(faiss, kind, len(nags))
            self = cls(nags, weights, index, parameters | {"structure": structure, "probes": 1, "candidates": 1})
            self._fill(faiss, options)
        self.parameters |= tune(self, options, sample)
        return self

    def _fill(self, faiss: Any, options: BuildOptions) -> None:
        """Train where the index has something to learn, and add every target."""
        if self.parameters["structure"] == "gpu-cagra":  # a graph is built at once, of all
            self.index.train(self._vectors(self.nags, options.threads))
            return
        if not self.index.is_trained:
            rows = np.random.default_rng(options.seed).permutation(len(self.nags))
            rows = rows[: min(self.lists * TRAIN_PER_LIST, TRAIN_MOST)]
            with faiss_threads(faiss, 1):  # sums of several threads may come out in another order
                self.index.train(self._vectors(self.nags[np.sort(rows)], options.threads))
        for first in range(0, len(self.nags), ROWS):
            self.index.add(self._vectors(self.nags[first : first + ROWS], options.threads))

    def _vectors(self, nags: Array, threads: int | None) -> Array:
        """Sketches as the index takes them: float32 [n, d], or for simhash uint8 [n, d / 8] of their signs."""
        p = self.parameters
        sketch = similarity.count_sketch(nags, self.weights, p["dimensions"], p["seed"], threads=threads)
        return np.packbits(sketch > 0, axis=1) if p["kind"] == "simhash" else sketch

    @property
    def lists(self) -> int:
        """Inverted lists; 1 where there are none."""
        return int(getattr(self.index, "nlist", 1))

    @property
    def bytes(self) -> int:
        """Memory taken beside the NAGs: codes and row numbers; what FAISS adds for its lists and tables is left out."""
        kind, dimensions = self.parameters["kind"], self.parameters["dimensions"]
        whole = dimensions // 8 if kind == "simhash" else dimensions * 4
        coded = kind == "pq" and self.parameters["structure"] == "ivf"
        return (int(self.index.sa_code_size()) if coded else whole) * len(self.nags) + 8 * len(self.nags)

    @property
    def most(self) -> int:
        """Candidates that a search can ask for."""
        on_gpu = self.parameters["structure"].startswith("gpu")
        return min(len(self.nags), faiss_gpu.MOST_NEIGHBOURS) if on_gpu else len(self.nags)

    def candidates(
        self, queries: Array, count: int, probes: int, threads: int | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """The targets nearest by sketch, nearest first, and their neurons in common with the query.

        Args:
            queries: uint16 or uint32 [q, L, K].
            count: c, targets a query.
            probes: lists to look into.
            threads: CPU threads.

        Returns:
            Rows of targets (int64 [q, c]) and counts (int32 [q, c]); both -1 where the lists held fewer.
        """
        faiss = import_faiss()
        vectors = self._vectors(queries, threads)
        structure = self.parameters["structure"]
        with faiss_threads(faiss, threads):
            if structure == "ivf":
                self.index.nprobe = probes
            options = faiss_gpu.search_options(faiss, structure, count)
            _, found = self.index.search(vectors, count, **options)
        rows = found.astype(np.int64)
        return rows, similarity.candidates(queries, self.nags, rows, num_neurons=self.num_neurons, threads=threads)

    @property
    def num_neurons(self) -> int:
        """N."""
        return int(self.weights.shape[1])

    def search(self, queries: Array, k: int, *, threads: int | None = None) -> Found:
        """The k nearest targets of each query; see nagfast.search.base.Index."""
        if k < 1:
            raise ArgumentError(f"k: got {k}; use at least 1")
        p = self.parameters
        # Beyond the k that it was tuned for, as many candidates a neighbour.
        count = min(self.most, max(k, p["candidates"], -(-p["candidates"] * k // p["recall_at"])))
        counts = np.full((len(queries), k), -1, np.int32)
        ids = np.full((len(queries), k), -1, np.int64)
        for first in range(0, len(queries), ROWS):
            part = slice(first, first + ROWS)
            rows, shared = self.candidates(queries[part], count, p["probes"], threads)
            best = order(rows, shared, k)
            ids[part, : best.shape[1]] = np.take_along_axis(rows, best, axis=1)
            counts[part, : best.shape[1]] = np.take_along_axis(shared, best, axis=1)
        return counts, ids

    def save(self, folder: Path) -> list[str]:
        """Write the index and the sketch weights; return the file names."""
        faiss = import_faiss()
        kind = self.parameters["kind"]
        index = self.index
        if self.parameters["structure"] == "ivf":
            index.nprobe = self.parameters["probes"]  # not what the last call happened to use
        if self.parameters["structure"].startswith("gpu"):
            index = faiss_gpu.to_cpu(faiss, kind, index)
        write = faiss.write_index_binary if kind == "simhash" else faiss.write_index
        write(index, str(folder / INDEX_FILE))
        np.save(folder / WEIGHTS_FILE, self.weights, allow_pickle=False)
        return [INDEX_FILE, WEIGHTS_FILE]

    @classmethod
    def load(cls, folder: Path, nags: Array, num_neurons: int, parameters: dict[str, Any]) -> Self:
        """Restore what save wrote; see nagfast.search.base.Index."""
        faiss = import_faiss()
        _check_parameters(parameters, folder)
        try:
            weights = read_array(folder / WEIGHTS_FILE)
            index = _read(faiss, folder / INDEX_FILE, parameters["kind"])
        except (OSError, ValueError, RuntimeError) as error:
            raise NagfastError(f"{folder}: the faiss index cannot be read ({error}); build it again") from None
        want = (nags.shape[1], num_neurons)
        if weights.dtype != np.float32 or weights.shape != want or not np.isfinite(weights).all():
            raise NagfastError(
                f"{folder / WEIGHTS_FILE}: {weights.dtype} {list(weights.shape)} does not fit NAGs of "
                f"{list(want)} layers and neurons; build the index again"
            )
        if index.ntotal != len(nags) or index.d != parameters["dimensions"]:
            raise NagfastError(
                f"{folder / INDEX_FILE}: {index.ntotal} targets of {index.d} dimensions, but there are {len(nags)} "
                f"NAGs and the parameters say {parameters['dimensions']}; build the index again"
            )
        if parameters["structure"] == "ivf" and not hasattr(index, "nprobe"):
            raise NagfastError(
                f"{folder / INDEX_FILE}: no inverted lists, as the parameters say; build the index again"
            )
        if parameters["structure"].startswith("gpu") and faiss.get_num_gpus() > 0:
            index = faiss_gpu.to_gpu(faiss, parameters["kind"], index)
        elif parameters["structure"].startswith("gpu"):
            parameters = parameters | {"structure": "flat"}
        return cls(nags, weights, index, dict(parameters))


def sketch_weights(nags: Array, num_neurons: int, threads: int | None = None) -> npt.NDArray[np.float32]:
    """What each neuron weighs in a sketch (float32 [L, N]): a power of its IDF, and 0 where no target holds it."""
    counts, documents = ops.count(nags, num_neurons, threads=threads)
    idf = similarity.idf_weights(counts, documents) / (1 << 16)
    # A neuron of every target has IDF 0, but it is still one in common.
    return np.where(counts > 0, np.maximum(idf, 1e-3) ** IDF_POWER, 0).astype(np.float32)


def order(rows: Array, shared: Array, k: int) -> Array:
    """Columns of the k best of each row, by count (highest first) and then by target (lowest first)."""
    key = (shared.astype(np.int64) << 40) + ((1 << 40) - 1 - rows)
    k = min(k, rows.shape[1])
    best = np.argpartition(-key, k - 1, axis=1)[:, :k]
    by_key: Array = np.take_along_axis(best, np.argsort(-np.take_along_axis(key, best, axis=1), axis=1), axis=1)
    return by_key


def _empty_index(faiss: Any, kind: str, documents: int) -> tuple[Any, str]:
    """An index for so many targets, and the name of its structure."""
    dimensions = DIMENSIONS[kind]
    if faiss.get_num_gpus() > 0:
        return faiss_gpu.make_index(faiss, kind, dimensions, documents)
    lists = 1 << max(4, round(np.log2(documents**0.5)))
    if kind == "simhash":
        quantizer = faiss.IndexBinaryFlat(dimensions)
        if documents < EXHAUSTIVE:
            return quantizer, "flat"
        index = faiss.IndexBinaryIVF(quantizer, dimensions, lists)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.niter = 10
        return index, "ivf"
    if documents < EXHAUSTIVE:
        return faiss.IndexFlatIP(dimensions), "flat"
    description = f"IVF{lists},PQ{dimensions // PLACES_PER_CODE}x4fs"
    index = faiss.index_factory(dimensions, description, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10
    return index, "ivf"


def _read(faiss: Any, path: Path, kind: str) -> Any:
    """The index in a file; a vector that claims to be longer than the file is refused before memory is asked for."""
    read = faiss.read_index_binary if kind == "simhash" else faiss.read_index
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):  # older releases
        return read(str(path))
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(path.stat().st_size)
    try:
        return read(str(path))
    finally:
        faiss.set_deserialization_vector_byte_limit(before)


def _check_parameters(parameters: dict[str, Any], folder: Path) -> None:
    """Refuse parameters that build would not have written."""
    kind, structure = parameters.get("kind"), parameters.get("structure")
    if kind not in DIMENSIONS or structure not in ("flat", "ivf", "gpu-flat", "gpu-cagra"):
        raise NagfastError(f"{folder}: a faiss index of kind {kind!r} and structure {structure!r}; build it again")
    for name in ("dimensions", "seed", "probes", "candidates", "recall_at"):
        value = parameters.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "seed" else 1):
            raise NagfastError(f"{folder}: {name} of the faiss index is {value!r}; build it again")
