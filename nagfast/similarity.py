"""Similarity of NAGs as sets: of pairs, of all with all, of queries with candidate targets.

    overlap    |A and B| / (L K)
    jaccard    |A and B| / |A or B|
    idf        2 sum_{A and B} w / (sum_A w + sum_B w), with whole weights from `idf_weights`

Sums are whole numbers divided once, so the backends (of nagfast.ops) agree to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nagfast import ops, reference_sets
from nagfast.errors import ArgumentError
from nagfast.schema import NagBatch

Array = npt.NDArray[Any]
Nags = NagBatch | Array
MEASURES = reference_sets.MEASURES
MAX_WEIGHT = 2**32 - 1
MAX_DIMENSIONS = 1 << 16


def pairwise(
    a: Nags,
    b: Nags,
    measure: str = "overlap",
    idf: Array | None = None,
    *,
    num_neurons: int | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Similarity of a[i] and b[i] (float64 [n], in [0, 1]); 0 where one of the two has no NAG.

    Args:
        a: NagBatch, or uint16 or uint32 [n, L, K].
        b: likewise, of as many documents.
        measure: overlap, jaccard or idf.
        idf: uint32 [L, N] from idf_weights; for "idf", and only there.
        num_neurons: N; may be left out where a or b is a NagBatch.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        SpecMismatchError: two NagBatches that may not be compared.
        ArgumentError: another wrong argument, or an index of N or more.
    """
    left, right, neurons = _sides(a, b, num_neurons)
    if len(left) != len(right):
        raise ArgumentError(f"b: got {len(right)} documents, a has {len(left)}; give pairs, or use matrix")
    weights = _weights(measure, idf, left, neurons)
    if _by_reference(backend, left, right, neurons):
        rows = [
            reference_sets.similarity_matrix(left[i : i + 1], right[i : i + 1], neurons, measure, weights)
            for i in range(len(left))
        ]
        return np.array(rows, np.float64).reshape(len(left))
    shared = np.empty(len(left), np.int32 if weights is None else np.int64)
    _native("overlap_pairs", left, right, shared, neurons=neurons, weights=weights, threads=ops.thread_count(threads))
    both = _sizes(left, weights, threads) + _sizes(right, weights, threads)
    return _ratio(shared, both, measure)


def matrix(
    a: Nags,
    b: Nags,
    measure: str = "overlap",
    idf: Array | None = None,
    *,
    num_neurons: int | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> npt.NDArray[np.float64]:
    """Similarity of a[i] and b[j] (float64 [n, m], in [0, 1]); arguments and errors as in pairwise."""
    left, right, neurons = _sides(a, b, num_neurons)
    weights = _weights(measure, idf, left, neurons)
    if _by_reference(backend, left, right, neurons):
        return reference_sets.similarity_matrix(left, right, neurons, measure, weights)
    shared = np.empty((len(left), len(right)), np.int32 if weights is None else np.int64)
    options = {"threads": ops.thread_count(threads), "isa": ops.isa()}
    _native("overlap_matrix", left, right, shared, neurons=neurons, weights=weights, **options)
    both = _sizes(left, weights, threads)[:, None] + _sizes(right, weights, threads)[None, :]
    return _ratio(shared, both, measure)


def candidates(
    queries: Nags,
    targets: Nags,
    candidates: Array,
    *,
    num_neurons: int | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> npt.NDArray[np.int32]:
    """Neurons in common of each query and its candidate targets (int32 [q, c]); -1 for candidate -1.

    Args:
        queries: NagBatch, or uint16 or uint32 [q, L, K].
        targets: likewise, [n, L, K].
        candidates: int64 [q, c], rows of targets; -1 for none.
        num_neurons: N; may be left out where one of the two is a NagBatch.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        SpecMismatchError: two NagBatches that may not be compared.
        ArgumentError: another wrong argument, a candidate that is no row, or an index of N or more.
    """
    left, right, neurons = _sides(queries, targets, num_neurons, "queries", "targets")
    if candidates.ndim != 2 or len(candidates) != len(left) or candidates.dtype.kind not in "iu":
        raise ArgumentError(
            f"candidates: got {candidates.dtype} {list(candidates.shape)}; give int64 [{len(left)}, candidates]"
        )
    rows = np.ascontiguousarray(candidates, dtype=np.int64)
    if _by_reference(backend, left, right, neurons):
        return _reference_candidates(left, right, rows, neurons)
    out = np.empty(rows.shape, np.int32)
    options = {"threads": ops.thread_count(threads), "isa": ops.isa()}
    _native("overlap_candidates", left, right, rows, out, neurons=neurons, weights=None, **options)
    return out


def idf_weights(counts: Array, documents: int) -> npt.NDArray[np.uint32]:
    """Weights of neurons by how few documents hold them: log((1 + n) / (1 + df)) in units of 2^-16 (uint32 [L, N]).

    Args:
        counts: documents that hold each neuron, integers [L, N], as ops.count gives them.
        documents: n, documents counted.
    """
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        raise ArgumentError(f"counts: got {counts.dtype} {list(counts.shape)}; give integers [L, N]")
    if counts.size and (counts.min() < 0 or counts.max() > documents):
        raise ArgumentError(
            f"documents: got {documents}, but counts run from {counts.min()} to {counts.max()}; "
            "give the number of documents that were counted"
        )
    return reference_sets.idf_weights(counts, documents)


def count_sketch(
    nags: Array,
    weights: npt.NDArray[np.float32],
    dimensions: int,
    seed: int = 0,
    *,
    backend: str = "auto",
    threads: int | None = None,
) -> npt.NDArray[np.float32]:
    """Signed count sketches, whose scalar products estimate the cosine of the weighted sets (float32 [n, d]).

    Args:
        nags: uint16 or uint32 [n, L, K].
        weights: float32 [L, N].
        dimensions: d, a power of two up to 65,536.
        seed: of the hash (formula: reference_sets.count_sketch).
        backend: auto, reference or cpp; they agree to float32 rounding.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: a wrong argument, or an index of N or more.
    """
    if weights.ndim != 2 or weights.dtype != np.float32:
        raise ArgumentError(f"weights: got {weights.dtype} {list(weights.shape)}; give float32 [L, N]")
    nags, _, neurons = _sides(nags, nags, weights.shape[1], "nags", "nags")
    if nags.shape[1] != len(weights):
        raise ArgumentError(f"weights: got {len(weights)} layers, nags have {nags.shape[1]}; use those of one model")
    if not 1 <= dimensions <= MAX_DIMENSIONS or dimensions & (dimensions - 1):
        raise ArgumentError(f"dimensions: got {dimensions}; use a power of two up to {MAX_DIMENSIONS}")
    if _by_reference(backend, nags, nags, neurons):
        return reference_sets.count_sketch(nags, weights, dimensions, seed).astype(np.float32)
    out = np.empty((len(nags), dimensions), np.float32)
    _native("count_sketch", nags, np.ascontiguousarray(weights), out, seed=seed, threads=ops.thread_count(threads))
    return out


def _sides(a: Nags, b: Nags, num_neurons: int | None, name_a: str = "a", name_b: str = "b") -> tuple[Array, Array, int]:
    """Both as checked arrays of one type, and N."""
    if isinstance(a, NagBatch) and isinstance(b, NagBatch):
        a.spec.require_same_identity(b.spec, name_a, name_b)
    for nags, name in ((a, name_a), (b, name_b)):
        if not isinstance(nags, NagBatch):
            continue
        if num_neurons not in (None, nags.spec.num_neurons):
            raise ArgumentError(f"num_neurons: got {num_neurons}, but {name} has {nags.spec.num_neurons}; leave it out")
        num_neurons = nags.spec.num_neurons
    if num_neurons is None or num_neurons < 1:
        raise ArgumentError(f"num_neurons: got {num_neurons}; give N, the neurons of a layer, with plain arrays")
    left, right = (nags.indices if isinstance(nags, NagBatch) else nags for nags in (a, b))
    for nags, name in ((left, name_a), (right, name_b)):
        if nags.ndim != 3 or nags.dtype not in (np.uint16, np.uint32) or 0 in nags.shape[1:]:
            raise ArgumentError(f"{name}: got {nags.dtype} {list(nags.shape)}; give uint16 or uint32 [documents, L, K]")
    if left.shape[1] != right.shape[1] or left.dtype != right.dtype:
        raise ArgumentError(
            f"{name_b}: got {right.dtype} {list(right.shape)}, but {name_a} is {left.dtype} {list(left.shape)}; "
            "compare NAGs of one model and type"
        )
    return left, right, num_neurons


def _by_reference(backend: str, a: Array, b: Array, num_neurons: int) -> bool:
    """Whether the reference is to run, its arguments checked; the extension checks its own."""
    if ops.resolve(backend) != "reference":
        return False
    for nags in (a, b):
        held = nags[nags[:, 0, 0] != np.iinfo(nags.dtype).max]
        if held.size and held.max() >= num_neurons:
            raise ArgumentError(
                f"num_neurons: got {num_neurons}, but there is an index {held.max()}; give the model's N"
            )
    return True


def _weights(measure: str, idf: Array | None, nags: Array, num_neurons: int) -> Array | None:
    """The weights of the measure (uint32 [L, N]), None where every neuron counts the same."""
    if measure not in MEASURES:
        raise ArgumentError(f"measure: got {measure!r}; use one of {', '.join(MEASURES)}")
    if (measure == "idf") != (idf is not None):
        got = "none" if idf is None else "weights"
        raise ArgumentError(f"idf: got {got} with measure {measure!r}; give idf_weights with 'idf', and only there")
    if idf is None:
        return None
    shape = (nags.shape[1], num_neurons)
    if idf.shape != shape or idf.dtype.kind not in "iu" or idf.min() < 0 or idf.max() > MAX_WEIGHT:
        raise ArgumentError(f"idf: got {idf.dtype} {list(idf.shape)}; give uint32 {list(shape)} from idf_weights")
    return np.ascontiguousarray(idf, dtype=np.uint32)


def _native(name: str, *arrays: Array, **options: Any) -> None:
    try:
        getattr(ops.native(), name)(*arrays, **options)
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def _sizes(nags: Array, weights: Array | None, threads: int | None) -> Array:
    """The whole weight of each document (int64 [n]): its neurons, where none weighs more; 0 without a NAG."""
    if weights is not None:
        return ops.score(nags, weights[:, :, None], backend="cpp", threads=threads)[:, 0]
    held: Array = np.where(nags[:, 0, 0] == np.iinfo(nags.dtype).max, 0, nags.shape[1] * nags.shape[2])
    return held


def _ratio(shared: Array, both: Array, measure: str) -> npt.NDArray[np.float64]:
    top, bottom = (shared, both - shared) if measure == "jaccard" else (2 * shared, both)
    result: npt.NDArray[np.float64] = np.divide(top, bottom, out=np.zeros(shared.shape), where=shared > 0)
    return result


def _reference_candidates(queries: Array, targets: Array, rows: Array, num_neurons: int) -> npt.NDArray[np.int32]:
    if rows.size and (rows.min() < -1 or rows.max() >= len(targets)):
        raise ArgumentError(
            f"candidates: run from {rows.min()} to {rows.max()}, but there are {len(targets)} targets; "
            "use their row numbers, and -1 for none"
        )
    shared = reference_sets.overlap_counts(queries, targets, num_neurons)
    if len(targets) == 0:
        return np.full(rows.shape, -1, np.int32)
    return np.where(rows < 0, -1, np.take_along_axis(shared, np.maximum(rows, 0), axis=1)).astype(np.int32)
