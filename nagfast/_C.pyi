# ruff: noqa: N999 - the name of a native module
"""Types of the native module; csrc/bindings.cpp checks the arguments.

Every function gives the same bytes from each instruction set and for any number of threads, releases the GIL, and
raises ValueError naming the argument, the value and the mend. Outputs are allocated by the caller.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reduction = Literal["mean_abs", "l2"]
Indices = NDArray[np.uint16] | NDArray[np.uint32]
FloatOrBfloat16 = NDArray[np.float32] | NDArray[np.uint16]

def available_isas(sets: bool = False) -> list[str]:
    """Return the instruction sets that this build and machine can run, slowest first.

    sets: with those that only set similarity has code for ("vp2intersect").
    """

def resolve_isa(isa: str) -> str:
    """Return the instruction set that `isa` ("auto", "scalar", "avx2", "avx512") stands for."""

def swiglu_impact(
    gate_up: FloatOrBfloat16,
    cu_seqlens: NDArray[np.int64],
    impact: NDArray[np.float32],
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Apply a gated activation in place and take the impact of each neuron on each document.

    Args:
        gate_up (float32, or uint16 holding bfloat16, [T, 2N]): gate, then up projection; rows may be strided. The
            gate half is overwritten with act(gate) * up.
        cu_seqlens (int64 [n + 1]): running sums of token counts, from 0 to T; empty documents are allowed.
        impact (float32 [n, N]): written; 0 for an empty document.
        activation: "silu" or "gelu_tanh".
        reduction: "mean_abs": (1/T_d) sum |up|; "l2": sqrt(sum up^2). Summed in float32 by chunks of 128 tokens.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def segment_impact(
    x: FloatOrBfloat16,
    cu_seqlens: NDArray[np.int64],
    impact: NDArray[np.float32],
    *,
    reduction: str = "mean_abs",
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Take the impact of each column of x ([T, N], not written); otherwise as swiglu_impact."""

def swiglu_backward(
    gate_up: FloatOrBfloat16,
    d_act: FloatOrBfloat16,
    cu_seqlens: NDArray[np.int64],
    impact: NDArray[np.float32],
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Backward pass of act(gate) * up in place, and the activation-times-gradient impact of each neuron.

    Args:
        gate_up (float32, or uint16 holding bfloat16, [T, 2N]): gate, then up projection; rows may be strided.
            Overwritten with their gradients, d_act * up * act'(gate) and d_act * act(gate).
        d_act (as gate_up, [T, N]): gradient of the loss by act(gate) * up; rows may be strided, not written.
        cu_seqlens (int64 [n + 1]): as in swiglu_impact.
        impact (float32 [n, N]): written; of act(gate) * up * d_act.
        activation: "silu" or "gelu_tanh".
        reduction: as in swiglu_impact.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def topk(
    values: NDArray[np.float32],
    k: int,
    out: Indices,
    *,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Write the indices of the k largest values of each row, largest first, ties (-0 and +0 too) to the lower index.

    Args:
        values (float32 [rows, N]): rows may be strided. A NaN is refused; out may then be partly written.
        k: 1 to N.
        out (uint16 or uint32 [rows, k]): written; uint16 needs N <= 65535.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def score(
    nags: Indices,
    table: Indices,
    out: NDArray[np.int64],
    *,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Sum the counts of each document's neurons: out[d, p] = sum over l, i of table[l, nags[d, l, i], p].

    Args:
        nags (uint16 or uint32 [n, L, K]): last dimension contiguous, so a prefix of a wider K will do. A document
            that holds the sentinel (all bits set) everywhere has sum 0. Other indices >= N are refused.
        table (uint16 or uint32 [L, N, P]): contiguous counts, P profiles side by side.
        out (int64 [n, P]): written; partly, where a document is refused.
        threads: 1 to 1024.
        isa: "auto", "scalar" (the plain loop), "avx2" or "avx512".
    """

def add_rms_norm(
    x: FloatOrBfloat16,
    residual: FloatOrBfloat16 | None,
    weight: NDArray[np.float32],
    eps: float,
    out: FloatOrBfloat16,
    *,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Add to the residual in place and take its RMS norm.

    Args:
        x (float32, or uint16 holding bfloat16, [T, H]): rows may be strided, here and below.
        residual (as x): overwritten with residual + x, rounded to its type, which the norm is taken of; must not
            overlap x or out. None: the norm is of x.
        weight (float32 [H]): contiguous.
        eps: added to the mean square.
        out (as x): written; may be x.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def norm_rotary(
    x: FloatOrBfloat16,
    weight: NDArray[np.float32] | None,
    eps: float,
    cos: NDArray[np.float32] | None,
    sin: NDArray[np.float32] | None,
    *,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """RMS-norm each head and turn it by its rotary embedding (halves rotated), in place; rounded once.

    Args:
        x (float32, or uint16 holding bfloat16, [T, heads, dim]): overwritten; tokens may be strided, dim is even where
            it is turned.
        weight (float32 [dim]): of the norm; None leaves the norm out.
        eps: added to the mean square.
        cos (float32 [T, dim]): contiguous; None leaves the rotary embedding out.
        sin (float32 [T, dim]): None with cos.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def causal_attention(
    query: FloatOrBfloat16,
    key: FloatOrBfloat16,
    value: FloatOrBfloat16,
    cu_seqlens: NDArray[np.int64],
    out: FloatOrBfloat16,
    scale: float,
    *,
    window: int | None = None,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Causal attention inside each document, in float32 and rounded once.

    Args:
        query (float32, or uint16 holding bfloat16, [T, heads, dim]): tokens may be strided, here and below; the heads
            of a token are contiguous.
        key (as query, [T, groups, dim]): heads is a multiple of groups.
        value (as query, [T, groups, value_dim]): any width.
        cu_seqlens (int64 [n + 1]): as in swiglu_impact.
        out (as query, [T, heads, value_dim]): written; overlaps none of the others.
        scale: factor on the scores, above 0.
        window: tokens a query sees, itself included; None: all before it in its document.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def count(nags: Indices, counts: NDArray[np.int64], *, threads: int = 1) -> int:
    """Add to counts (int64 [L, N]) the number of documents that hold each neuron.

    Documents that are the sentinel throughout are skipped. An index out of range, or a neuron twice in one layer, is
    refused before anything is added.

    Returns:
        The number of documents counted.
    """

def minhash(
    nags: Indices,
    neurons: int,
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    out: NDArray[np.uint32],
    *,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Write MinHash signatures: out[d, k] = min over elements e of document d of (a[k] * fmix32(e) + b[k]) mod 2^32.

    Args:
        nags (uint16 or uint32 [n, L, K]): last dimension contiguous. A document that holds the sentinel everywhere is
            the empty set, all of whose values are 2^32 - 1. Other indices >= N are refused.
        neurons: N; the element of neuron i in layer l is l * N + i, and L * N is at most 2^32.
        a (uint32 [p]): contiguous, p at least 1.
        b (uint32 [p]): contiguous.
        out (uint32 [n, p]): written; partly, where a document is refused.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512".
    """

def overlap_pairs(
    a: Indices,
    b: Indices,
    out: NDArray[np.int32] | NDArray[np.int64],
    *,
    neurons: int,
    weights: NDArray[np.uint32] | None = None,
    threads: int = 1,
) -> None:
    """Write the neurons that a[i] and b[i] have in common, or the sum of their weights.

    Documents that are the sentinel throughout have none. a and b may differ in K.

    Args:
        a (uint16 or uint32 [n, L, Ka]): last dimension contiguous; indices distinct in a layer, all below N.
        b (the same type [n, L, Kb]): likewise.
        out (int32 [n], int64 with weights): written; partly, where a document is refused.
        neurons: N.
        weights (uint32 [L, N]): contiguous.
        threads: 1 to 1024.
    """

def overlap_matrix(
    a: Indices,
    b: Indices,
    out: NDArray[np.int32] | NDArray[np.int64],
    *,
    neurons: int,
    weights: NDArray[np.uint32] | None = None,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Write the same of a[i] and b[j] into out[i, j] ([n, m])."""

def overlap_candidates(
    a: Indices,
    b: Indices,
    candidates: NDArray[np.int64],
    out: NDArray[np.int32] | NDArray[np.int64],
    *,
    neurons: int,
    weights: NDArray[np.uint32] | None = None,
    threads: int = 1,
    isa: str = "auto",
) -> None:
    """Write the same of a[i] and b[candidates[i, j]] into out[i, j] ([n, c]).

    Args:
        a: as in overlap_pairs.
        b: as in overlap_pairs, any number of documents.
        candidates (int64 [n, c]): contiguous; rows of b, or -1 for none, which gives -1.
        out (int32 [n, c], int64 with weights): written.
        neurons: N.
        weights (uint32 [L, N]): contiguous.
        threads: 1 to 1024.
        isa: "auto", "scalar", "avx2" or "avx512"; the vector paths serve uint16 without weights, K from 16 to 96.
    """

def count_sketch(
    nags: Indices,
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
    *,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Write the signed count sketch of each document, of length 1 (formula: reference_sets.count_sketch).

    Args:
        nags (uint16 or uint32 [n, L, K]): last dimension contiguous.
        weights (float32 [L, N]): contiguous.
        out (float32 [n, d]): written; d is a power of two up to 65,536. Zero for a document without a NAG.
        seed: 0 to 2^64 - 1.
        threads: 1 to 1024.
    """

class BitTargets:
    """Target NAGs as rows of bits in blocks of 512, for the exact nearest targets of many queries.

    The time of a search hardly depends on how popular the neurons are. Targets that lie side by side in `order` share
    rows, so an order by likeness takes less memory and time.
    """

    def __init__(
        self,
        nags: Indices,
        neurons: int,
        *,
        order: NDArray[np.int64] | None = None,
        starts: NDArray[np.int64] | None = None,
        threads: int = 1,
    ) -> None:
        """Build from NAGs, which are not kept. Reads them twice.

        Args:
            nags (uint16 or uint32 [n, L, K]): last dimension contiguous; L * K at most 65534, distinct within a layer.
                Sentinel documents are targets that share nothing. Other indices >= neurons are refused.
            neurons: N.
            order (int64 [lanes]): row of nags in each lane; any rows in any order, default all as they come.
            starts (int64 [lists + 1]): list i is lanes starts[i] to starts[i + 1]; default one list.
            threads: 1 to 1024.
        """

    @property
    def lanes(self) -> int:
        """Targets."""
    @property
    def lists(self) -> int:
        """Lists."""
    @property
    def bytes(self) -> int:
        """Memory held."""
    def search(
        self,
        queries: Indices,
        counts: NDArray[np.int32],
        ids: NDArray[np.int64],
        *,
        first: int = 0,
        threads: int = 1,
        isa: str = "auto",
    ) -> None:
        """Merge all targets into the nearest of each query: most neurons in common first, ties to the lower id.

        Args:
            queries (uint16 or uint32 [q, L, K]): as nags. An index >= N is refused before anything is written.
            counts (int32 [q, k]): neurons in common, -1 for none; -1 throughout, or what an earlier search left. k is
                1 to 4096.
            ids (int64 [q, k]): row of nags + first, below 2^48, -1 for none; otherwise as counts.
            first: added to the rows of nags.
            threads: 1 to 1024; they share the queries.
            isa: "auto", "scalar", "avx2" or "avx512".
        """

    def search_lists(
        self,
        queries: Indices,
        probes: NDArray[np.int32],
        counts: NDArray[np.int32],
        ids: NDArray[np.int64],
        *,
        first: int = 0,
        threads: int = 1,
        isa: str = "auto",
    ) -> None:
        """Merge the targets of some lists, as search does.

        Args:
            queries (uint16 or uint32 [q, L, K]): as in search.
            probes (int32 [q, p]): lists to look into, in any order, -1 for none; a list named twice counts once.
            counts (int32 [q, k]): as in search.
            ids (int64 [q, k]): as in search.
            first: as in search.
            threads: 1 to 1024.
            isa: "auto", "scalar", "avx2" or "avx512".
        """

def inverted_lists_search(
    nags: Indices,
    neurons: int,
    queries: Indices,
    counts: NDArray[np.int32],
    ids: NDArray[np.int64],
) -> None:
    """Do what BitTargets(nags, neurons).search does, by counting up the targets in each neuron's list.

    The usual method, for benchmarks to compare with; builds the lists in every call. One thread.

    Args:
        nags (uint16 or uint32 [n, L, K]): targets, as in BitTargets.
        neurons: N.
        queries (as nags, [q, L, K]): as in BitTargets.search.
        counts (int32 [q, k]): as in BitTargets.search.
        ids (int64 [q, k]): as in BitTargets.search.
    """

def prototypes(nags: Indices, assignment: NDArray[np.int32], out: Indices, *, neurons: int, threads: int = 1) -> None:
    """Write the K neurons of each layer that most documents of a cluster hold, ties to the lower index.

    Args:
        nags (uint16 or uint32 [n, L, k]): distinct within a layer; those without a NAG are left out. Indices >= neurons
            are refused before anything is written.
        assignment (int32 [n]): cluster of each document, -1 to leave it out.
        out (as nags, [clusters, L, K]): written, most frequent first; the sentinel where no document has a NAG.
            K is 1 to neurons.
        neurons: N.
        threads: 1 to 1024.
    """
