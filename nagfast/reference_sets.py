"""Ground truth for NAGs as sets: similarity, nearest targets, prototypes; every fast path is tested against it.

The set of a NAG is its (layer, neuron) pairs; |A| = L K. A document without a NAG (sentinel) is the empty set.

    overlap    |A and B| / (L K)                                       the NAG similarity of DESIGN section 2
    jaccard    |A and B| / |A or B|                                    orders targets as overlap does
    idf        2 sum_{A and B} w / (sum_A w + sum_B w)                 overlap, where every weight is the same

with w_l[k] = log((1 + n) / (1 + df_l[k])) over n documents, kept as 2^-16 fixed point so that every sum is an integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
MEASURES = ("overlap", "jaccard", "idf")
WEIGHT_ONE = 1 << 16


def members(nags: Array, num_neurons: int) -> Array:
    """Which (layer, neuron) pairs each document holds (bool [n, L * N])."""
    documents, layers, _ = nags.shape
    held = np.zeros((documents, layers, num_neurons), dtype=bool)
    for d in np.flatnonzero(nags[:, 0, 0] != np.iinfo(nags.dtype).max):
        for layer in range(layers):
            held[d, layer, nags[d, layer]] = True
    return held.reshape(documents, layers * num_neurons)


def overlap_counts(a: Array, b: Array, num_neurons: int) -> Array:
    """|A and B| of every pair (uint16 or uint32 [n, L, K] and [m, L, K] -> int32 [n, m])."""
    shared = members(a, num_neurons).astype(np.float32) @ members(b, num_neurons).astype(np.float32).T  # exact to 2^24
    return shared.astype(np.int32)


def idf_weights(counts: Array, documents: int) -> Array:
    """w_l[k] in units of 1 / WEIGHT_ONE (uint32 [L, N]).

    Args:
        counts: documents that hold each neuron, int64 [L, N].
        documents: n, documents counted.
    """
    weights: Array = np.rint(WEIGHT_ONE * np.log((1 + documents) / (1 + counts))).astype(np.uint32)
    return weights


def similarity_matrix(
    a: Array, b: Array, num_neurons: int, measure: str = "overlap", idf: Array | None = None
) -> Array:
    """Similarity of every pair (float64 [n, m]); 0 where one of the two is empty.

    Args:
        a: uint16 or uint32 [n, L, K].
        b: uint16 or uint32 [m, L, K].
        num_neurons: N.
        measure: one of MEASURES.
        idf: uint32 [L, N] from idf_weights, for "idf".
    """
    weight = np.ones(a.shape[1] * num_neurons, np.int64) if idf is None else idf.reshape(-1).astype(np.int64)
    in_a, in_b = members(a, num_neurons).astype(np.int64), members(b, num_neurons).astype(np.int64)
    shared = (in_a * weight) @ in_b.T
    both = (in_a @ weight)[:, None] + (in_b @ weight)[None, :]
    top, bottom = (shared, both - shared) if measure == "jaccard" else (2 * shared, both)
    result: Array = np.divide(top, bottom, out=np.zeros(top.shape), where=shared > 0)
    return result


def nearest(
    queries: Array, targets: Array, num_neurons: int, k: int, allowed: Array | None = None
) -> tuple[Array, Array]:
    """The k targets that share most neurons with each query, ties to the lower target index.

    Args:
        queries: uint16 or uint32 [q, L, K].
        targets: uint16 or uint32 [n, L, K].
        num_neurons: N.
        k: neighbours per query.
        allowed: which targets a query may find (bool [q, n]); default all.

    Returns:
        counts (int32 [q, k]) and targets (int64 [q, k]), most shared first; both -1 where there are fewer than k.
    """
    shared = overlap_counts(queries, targets, num_neurons)
    if allowed is not None:
        shared[~allowed] = -1
    order = np.argsort(-shared, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, k - order.shape[1]))
    counts = np.pad(np.take_along_axis(shared, order, axis=1), missing, constant_values=-1).astype(np.int32)
    found = np.pad(order, missing, constant_values=-1).astype(np.int64)
    return counts, np.where(counts < 0, -1, found)


def prototype(nags: Array, num_neurons: int, top_k: int) -> Array:
    """The NAG of a cluster: per layer the top_k neurons that most documents hold, ties to the lower index ([L, K])."""
    counts = members(nags, num_neurons).reshape(len(nags), nags.shape[1], num_neurons).sum(axis=0)
    return np.argsort(-counts, axis=1, kind="stable")[:, :top_k].astype(nags.dtype)


def minhash(nags: Array, num_neurons: int, a: Array, b: Array) -> Array:
    """MinHash signatures under the permutations a[k] * fmix32(e) + b[k] mod 2^32 (uint32 [n, p]).

    The element e of neuron i in layer l is l * N + i; fmix32 is the finalizer of MurmurHash3. The empty set has
    2^32 - 1 everywhere. Equal to datasketch.MinHash of scheme "affine32" whose hash function is the identity on these
    integers.

    Args:
        nags: uint16 or uint32 [n, L, K].
        num_neurons: N; L * N at most 2^32.
        a: uint32 [p], odd for a permutation.
        b: uint32 [p].
    """
    h = nags.astype(np.uint32) + (np.arange(nags.shape[1], dtype=np.uint32) * np.uint32(num_neurons))[:, None]
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    h = (h ^ (h >> np.uint32(16))).reshape(len(nags), nags.shape[1] * nags.shape[2])
    least = np.full((len(nags), len(a)), np.iinfo(np.uint32).max, np.uint32)
    for d in np.flatnonzero(nags[:, 0, 0] != np.iinfo(nags.dtype).max):
        least[d] = (h[d, :, None] * a + b).min(axis=0)
    return least


def sketch_hash(keys: Array, seed: int) -> Array:
    """The hash of count_sketch (uint64, any shape): the finish of SplitMix64 over key + (seed + 1) * 2^64 / phi."""
    offset = np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = keys.astype(np.uint64) + offset
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def count_sketch(nags: Array, weights: Array, dimensions: int, seed: int = 0) -> Array:
    """Signed count sketch of weighted sets, of length 1 (float32 [n, d]); 0 for a document without a NAG.

    sketch[bucket(l, k)] += sign(l, k) * w_l[k] for each neuron held, with x = sketch_hash(l * N + k), bucket = x mod d
    and sign = -1 where the highest bit of x is set. Scalar products of sketches estimate the cosine of the sets.

    Args:
        nags: uint16 or uint32 [n, L, K].
        weights: float32 [L, N].
        dimensions: d, a power of two.
        seed: of the hash.
    """
    documents, layers, _ = nags.shape
    out = np.zeros((documents, dimensions))
    for d in np.flatnonzero(nags[:, 0, 0] != np.iinfo(nags.dtype).max):
        rows = np.arange(layers)[:, None]
        x = sketch_hash(rows * weights.shape[1] + nags[d].astype(np.int64), seed)
        values = np.where(x >> np.uint64(63), -1.0, 1.0) * weights[rows, nags[d]]
        np.add.at(out[d], (x % np.uint64(dimensions)).astype(np.int64), values)
        length = np.sqrt((out[d] ** 2).sum())
        out[d] = out[d] / length if length > 0 else 0.0
    return out.astype(np.float32)
