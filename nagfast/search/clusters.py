"""k-modes over NAGs: clusters whose prototypes are themselves NAGs, so that one kernel searches coarsely and finely.

A prototype holds per layer the K neurons that most documents of its cluster hold (ties to the lower index); a document
belongs to the prototype it shares most neurons with (ties to the lower cluster). Starting points are documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nagfast import ops, reference_sets
from nagfast.search.base import Array
from nagfast.search.bits import BitRows

SAMPLE_PER_LIST, LEAST_PER_LIST, SAMPLE = 64, 16, 65_536
"""Targets that clusters are trained on: so many a list, fewer where they would be more than SAMPLE."""
ITERATIONS = 8
ROUNDS = 8
MOVES = 6
"""At most so often, prototypes that are hardly missed are moved to documents that none is near to."""
NEIGHBORS = 8
"""Documents that make a new prototype."""
SETTLED = 0.01
"""Share of the sample, or of the prototypes, that still moves when training stops."""


@dataclass(frozen=True)
class Clusters:
    """Target rows in lists."""

    prototypes: Array
    """uint16 or uint32 [lists, L, K]."""
    order: npt.NDArray[np.int64]
    """Target rows, list after list, ascending within a list (int64 [n])."""
    starts: npt.NDArray[np.int64]
    """Where each list begins in `order`, and n (int64 [lists + 1])."""


def cluster(nags: Array, num_neurons: int, lists: int, *, seed: int = 0, threads: int | None = None) -> Clusters:
    """Cluster targets into about `lists` lists of at most four times the mean length.

    Args:
        nags: uint16 or uint32 [n, L, K]; rows without a NAG go to the first list.
        num_neurons: N.
        lists: at most n; empty ones are left out, oversized ones are split.
        seed: of the starting points.
        threads: CPU threads, default all.
    """
    rng = np.random.default_rng(seed)
    mean = max(-(-len(nags) // lists), 2)
    limit = 4 * mean
    members = _divide(nags, np.arange(len(nags)), num_neurons, lists, rng, threads)
    final: list[Array] = []
    while members:
        rows = members.pop()
        if len(rows) <= limit:
            final.append(rows)
            continue
        parts = _divide(nags, rows, num_neurons, -(-len(rows) // mean), rng, threads)
        # Documents that are all alike cannot be told apart: cut them to length.
        even = len(parts) == 1 or max(map(len, parts)) > 0.9 * len(rows)
        members += np.array_split(rows, -(-len(rows) // mean)) if even else parts
    final.sort(key=lambda rows: int(rows[0]))
    assignment = np.empty(len(nags), np.int32)
    for number, rows in enumerate(final):
        assignment[rows] = number
    prototypes = modes(nags, assignment, len(final), num_neurons, threads)
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in final])]).astype(np.int64)
    return Clusters(prototypes, np.concatenate(final).astype(np.int64), starts)


def modes(nags: Array, assignment: Array, lists: int, num_neurons: int, threads: int | None = None) -> Array:
    """Prototypes of the clusters (uint16 or uint32 [lists, L, K]); the sentinel where a cluster has no NAG.

    Args:
        nags: uint16 or uint32 [n, L, K].
        assignment: cluster of each document (int32 [n]), -1 for none.
        lists: number of clusters.
        num_neurons: N.
        threads: CPU threads, default all.
    """
    out = np.empty((lists, *nags.shape[1:]), nags.dtype)
    extension = ops.native()
    if extension is not None:
        extension.prototypes(nags, assignment, out, neurons=num_neurons, threads=ops.thread_count(threads))
        return out
    has_nag = nags[:, 0, 0] != np.iinfo(nags.dtype).max
    for number in range(lists):
        mine = nags[(assignment == number) & has_nag]
        out[number] = (
            reference_sets.prototype(mine, num_neurons, nags.shape[2]) if len(mine) else np.iinfo(out.dtype).max
        )
    return out


def _divide(
    nags: Array, rows: Array, num_neurons: int, lists: int, rng: np.random.Generator, threads: int | None
) -> list[Array]:
    """Rows of each cluster that is not empty, ascending."""
    lists = min(lists, len(rows))
    if lists <= 1:
        return [rows]
    sample = rows
    wanted = max(min(SAMPLE_PER_LIST * lists, SAMPLE), LEAST_PER_LIST * lists)
    if len(rows) > wanted:
        sample = np.sort(rng.choice(rows, wanted, replace=False))
    prototypes = _train(np.ascontiguousarray(nags[sample]), num_neurons, lists, rng, threads)
    nearest, _ = _assign(nags, rows, prototypes, num_neurons, threads)
    by_list = np.argsort(nearest, kind="stable")
    parts = np.split(rows[by_list], np.searchsorted(nearest[by_list], np.arange(1, lists)))
    return [part for part in parts if len(part)]


def _train(nags: Array, num_neurons: int, lists: int, rng: np.random.Generator, threads: int | None) -> Array:
    """Prototypes of a sample (uint16 or uint32 [lists, L, K])."""
    prototypes = _settle(nags, _start(nags, num_neurons, lists, rng, threads), num_neurons, ITERATIONS, rng, threads)
    for _ in range(MOVES):
        moved = _move(nags, prototypes, num_neurons, rng, threads)
        if moved > 0:
            prototypes = _settle(nags, prototypes, num_neurons, 2, rng, threads)
        if moved <= SETTLED * lists:
            break
    return prototypes


def _settle(
    nags: Array, prototypes: Array, num_neurons: int, iterations: int, rng: np.random.Generator, threads: int | None
) -> Array:
    """Alternate assignment and modes until few documents still move."""
    lists = len(prototypes)
    before = np.full(len(nags), -1, np.int32)
    for _ in range(iterations):
        assignment, _ = _assign(nags, np.arange(len(nags)), prototypes, num_neurons, threads)
        if (assignment != before).mean() <= SETTLED:
            break
        before = assignment
        found = modes(nags, assignment, lists, num_neurons, threads)
        unused = np.bincount(assignment, minlength=lists) == 0
        found[unused] = nags[np.sort(rng.choice(len(nags), int(unused.sum()), replace=False))]
        prototypes = found
    return prototypes


def _move(nags: Array, prototypes: Array, num_neurons: int, rng: np.random.Generator, threads: int | None) -> int:
    """Move prototypes, in place, to where they win more neurons in common than they lose; how many moved.

    k-modes alone keeps what its starting points gave it: two prototypes share one cluster, and the documents of
    others are heaped upon a list whose prototype is what is frequent everywhere.
    """
    lists = len(prototypes)
    counts, near = BitRows(prototypes, num_neurons).search(nags, 2, threads=threads)
    covered = counts[:, 0]
    # What its documents lose when each of them goes to its second nearest prototype.
    losses = np.bincount(near[:, 0], weights=covered - counts[:, 1], minlength=lists)
    wanted = min(max(lists // 4, 1), len(nags))
    worst = np.argsort(covered, kind="stable")[: max(len(nags) // 4, wanted)]
    fresh = _among_neighbors(nags, np.sort(rng.choice(worst, wanted, replace=False)), num_neurons, rng, threads)
    nearest, shared = _assign(nags, np.arange(len(nags)), fresh, num_neurons, threads)
    gains = np.bincount(nearest, weights=np.maximum(shared - covered, 0), minlength=wanted)
    best, least = np.argsort(-gains, kind="stable"), np.argsort(losses, kind="stable")[:wanted]
    swaps = int((gains[best[: len(least)]] > losses[least]).sum())
    prototypes[least[:swaps]] = fresh[best[:swaps]]
    return swaps


def _among_neighbors(
    nags: Array, rows: Array, num_neurons: int, rng: np.random.Generator, threads: int | None
) -> Array:
    """The prototype of each document and its nearest neighbours among a quarter of all.

    A document alone shares less with its cluster than what is frequent everywhere does.
    """
    part = np.sort(rng.choice(len(nags), -(-len(nags) // 4), replace=False))
    pool = np.ascontiguousarray(nags[part])
    _, found = BitRows(pool, num_neurons).search(nags[rows], min(NEIGHBORS, len(pool)), threads=threads)
    of_row = np.repeat(np.arange(len(rows), dtype=np.int32), found.shape[1] + 1)
    members = np.concatenate([nags[rows][:, None], pool[found]], axis=1).reshape(-1, *nags.shape[1:])
    return modes(members, of_row, len(rows), num_neurons, threads)


def _start(nags: Array, num_neurons: int, lists: int, rng: np.random.Generator, threads: int | None) -> Array:
    """Documents to start from, round by round among the half that the earlier ones are furthest from.

    Drawn all at once, starting points leave a third of the clusters without one, whose documents then end up anywhere.
    """
    step = math.ceil(lists / ROUNDS)
    chosen = rng.choice(len(nags), step, replace=False)
    covered = np.zeros(len(nags), np.int32)
    while len(chosen) < lists:
        newest = nags[np.sort(chosen[-step:])]
        _, counts = _assign(nags, np.arange(len(nags)), newest, num_neurons, threads)
        covered = np.maximum(covered, counts)
        covered[chosen] = np.iinfo(np.int32).max
        wanted = min(step, lists - len(chosen))
        uncovered = np.argsort(covered, kind="stable")[: max(len(nags) // 2, wanted)]
        chosen = np.concatenate([chosen, rng.choice(uncovered, wanted, replace=False)])
    return np.ascontiguousarray(nags[np.sort(chosen)])


def _assign(nags: Array, rows: Array, prototypes: Array, num_neurons: int, threads: int | None) -> tuple[Array, Array]:
    """The nearest prototype of some rows, and the neurons in common with it (int32 [m] each)."""
    bits = BitRows(prototypes, num_neurons)
    found, counts = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
    whole = len(rows) == len(nags)  # rows are ascending: all of them need no copy
    for first in range(0, len(rows), bits.rows):
        part = slice(first, first + bits.rows)
        near = bits.search(nags[part] if whole else nags[rows[part]], 1, threads=threads)
        counts[part], found[part] = near[0][:, 0], near[1][:, 0]
    return found, counts
