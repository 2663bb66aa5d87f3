"""_C.prototypes against the plain definition, reference_sets.prototype."""

import numpy as np
import pytest

from nagfast import _C, reference_sets

INDEX_TYPES = [np.uint16, np.uint32]


def draw(documents, layers, k, neurons, dtype, seed=0):
    """Draw NAGs [n, L, K] of distinct neurons below N, the low ones more often."""
    rng = np.random.default_rng(seed)
    ranks = rng.random((documents, layers, neurons)) * (np.arange(neurons) + 3.0)
    return np.argsort(ranks, axis=2)[:, :, :k].astype(dtype)


def expected(nags, assignment, clusters, neurons, top_k):
    sentinel = np.iinfo(nags.dtype).max
    out = np.full((clusters, nags.shape[1], top_k), sentinel, nags.dtype)
    for cluster in range(clusters):
        members = nags[(assignment == cluster) & (nags[:, 0, 0] != sentinel)]
        if len(members):
            out[cluster] = reference_sets.prototype(members, neurons, top_k)
    return out


def run(nags, assignment, clusters, neurons, top_k, **options):
    out = np.full((clusters, nags.shape[1], top_k), 7, nags.dtype)
    _C.prototypes(nags, assignment, out, neurons=neurons, **options)
    return out


@pytest.mark.parametrize("dtype", INDEX_TYPES)
@pytest.mark.parametrize("top_k", [1, 4, 20, 30])
def test_prototypes_equal_the_reference(top_k, dtype, threads):
    for documents, layers, k, clusters in [(0, 2, 3, 2), (1, 1, 1, 1), (50, 3, 4, 7), (300, 2, 20, 5), (40, 2, 5, 0)]:
        nags = draw(documents, layers, k, 30, dtype)
        assignment = np.random.default_rng(top_k).integers(-1, clusters, documents).astype(np.int32)
        if documents > 10:
            nags[[0, 9]] = np.iinfo(dtype).max
        got = run(nags, assignment, clusters, 30, top_k, threads=threads)
        np.testing.assert_array_equal(got, expected(nags, assignment, clusters, 30, top_k))


def test_ties_and_neurons_that_no_document_holds_go_to_the_lower_index():
    nags = np.array([[[5, 8]], [[8, 2]], [[9, 2]]], np.uint16)
    got = run(nags, np.zeros(3, np.int32), 2, 10, 7)
    assert got[0, 0].tolist() == [2, 8, 5, 9, 0, 1, 3]
    assert (got[1] == 0xFFFF).all()


def test_a_cluster_of_documents_without_a_nag_has_none():
    nags = np.full((3, 2, 4), 0xFFFF, np.uint16)
    nags[2] = [3, 1, 0, 2]
    got = run(nags, np.array([0, 0, -1], np.int32), 1, 9, 4)
    assert (got == 0xFFFF).all()


def test_views_are_read_in_place():
    wide = draw(80, 6, 12, 40, np.uint16)
    view = wide[::3, 1:4, :7]
    assignment = (np.arange(len(view)) % 3).astype(np.int32)
    np.testing.assert_array_equal(run(view, assignment, 3, 40, 7), expected(view, assignment, 3, 40, 7))


NAGS = np.tile(np.arange(3, dtype=np.uint16), (4, 2, 1))
WHERE = np.zeros(4, np.int32)
OUT = np.zeros((2, 2, 3), np.uint16)


@pytest.mark.parametrize(
    ("nags", "assignment", "out", "neurons", "message"),
    [
        (NAGS.astype(np.int64), WHERE, OUT, 9, "nags: expected uint16 or uint32, got int64"),
        (NAGS + 7, WHERE, OUT, 9, "nags: document 0, layer 0 holds index 9, but a layer has N = 9"),
        (NAGS, WHERE[:3], OUT, 9, r"assignment: expected shape \[4\]"),
        (NAGS, WHERE.astype(np.int64), OUT, 9, "assignment: expected int32, got int64"),
        (NAGS, np.array([0, 1, 2, 0], np.int32), OUT, 9, "assignment: entry 2 is 2; out has 2 clusters"),
        (NAGS, np.array([0, -2, 2, 0], np.int32), OUT, 9, "assignment: entry 1 is -2"),
        (NAGS, WHERE, OUT.astype(np.uint32), 9, "out: expected uint16, as nags, got uint32"),
        (NAGS.astype(np.uint32), WHERE, OUT, 9, "out: expected uint32, as nags, got uint16"),
        (NAGS, WHERE, OUT[:, :1], 9, "out: expected"),
        (NAGS, WHERE, np.zeros((2, 1, 3), np.uint16), 9, r"out: expected shape \[2, 2, 3\]"),
        (NAGS, WHERE, np.zeros((2, 2, 0), np.uint16), 9, "out: expected K from 1 to 9"),
        (NAGS, WHERE, np.zeros((2, 2, 10), np.uint16), 9, "out: expected K from 1 to 9"),
    ],
)
def test_wrong_arguments_are_named(nags, assignment, out, neurons, message):
    before = out.copy()
    with pytest.raises(ValueError, match=message):
        _C.prototypes(nags, assignment, out, neurons=neurons)
    np.testing.assert_array_equal(out, before)
