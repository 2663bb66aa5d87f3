"""Bit rows and search against reference_sets: the same targets in the same order, ties included."""

import numpy as np
import pytest
import torch
from drawing import draw, sentinel

from nagfast import reference_sets
from nagfast.kernels import bit_rows, bit_search

# targets, queries, L, K, N, k. Blocks hold 1,024, 2,048 or 4,096 targets; groups hold 16 rows.
CASES = [
    (1, 2, 2, 3, 7, 1),
    (31, 1, 1, 1, 5, 31),
    (32, 1, 3, 5, 19, 33),
    (33, 1, 2, 7, 7, 4),
    (127, 1, 1, 15, 40, 3),
    (128, 1, 1, 16, 41, 10),
    (129, 1, 1, 17, 50, 10),
    (1025, 1, 1, 64, 71, 5),
    (2048, 2, 1, 2, 9, 10),
    (4097, 1, 2, 2, 5, 12),
    (300, 1, 12, 20, 53, 10),
]


def move(nags, device):
    return torch.from_numpy(nags).to(device)


def check(queries, targets, neurons, k, device):
    rows = bit_search.build_rows(move(targets, device), neurons)
    counts, ids = bit_search.search(rows, move(queries, device), k)
    assert (counts.dtype, ids.dtype) == (torch.int32, torch.int64)
    expected_counts, expected_ids = reference_sets.nearest(queries, targets, neurons, k)
    np.testing.assert_array_equal(counts.cpu().numpy(), expected_counts)
    np.testing.assert_array_equal(ids.cpu().numpy(), expected_ids)


@pytest.mark.parametrize("targets", [1, 31, 32, 33, 127, 128, 129, 1024, 1025, 4096, 4097])
def test_rows_hold_the_members(targets, device):
    nags = draw(targets, 2, 3, 9)
    nags[targets // 2] = sentinel(nags)
    nags[0, 1] = nags[0, 1, 0]  # a neuron that comes twice is one bit
    rows, row_of, count = bit_search.build_rows(move(nags, device), 9)
    assert count == targets
    assert rows.shape[2] == bit_rows.block_words(targets)
    words = rows.cpu().numpy().transpose(1, 0, 2).copy()  # [row, block, word]
    bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
    members = reference_sets.members(nags, 9)
    np.testing.assert_array_equal(bits[row_of.cpu().numpy().reshape(-1), :targets].T, members)
    assert not bits[0].any()
    assert not bits[:, targets:].any()
    assert len(words) == 1 + members.any(axis=0).sum()


@pytest.mark.parametrize(("targets", "words"), [(1, 32), (1024, 32), (1025, 64), (2049, 128), (10**6, 128)])
def test_words_of_a_block(targets, words):
    assert bit_rows.block_words(targets) == words


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search_equals_the_reference(case, device):
    targets, queries, layers, top_k, neurons, k = case
    check(draw(queries, layers, top_k, neurons, seed=1), draw(targets, layers, top_k, neurons), neurons, k, device)


@pytest.mark.parametrize(("layers", "top_k"), [(1, 15), (2, 8), (1, 31), (4, 8)])
def test_counts_reach_the_top_plane(layers, top_k, device):
    targets = draw(40, layers, top_k, 64)
    check(targets[7:8], targets, 64, 2, device)


@pytest.mark.parametrize(("copies", "k"), [(70, 40), (1030, 3)])
def test_ties_go_to_the_lower_target(copies, k, device):
    check(draw(1, 2, 3, 9), np.repeat(draw(1, 2, 3, 9), copies, axis=0), 9, k, device)


def test_ties_across_blocks(device):
    targets = np.full((4200, 1, 2), 65535, np.uint16)
    targets[[4095, 4096, 4199], 0] = [3, 4]
    targets[[10, 4100], 0] = [4, 5]
    check(np.array([[[4, 3]]], np.uint16), targets, 6, 4, device)


def test_documents_without_a_nag(device):
    targets, queries = draw(40, 2, 3, 9), draw(2, 2, 3, 9, seed=1)
    targets[[0, 2, 39]] = queries[0] = sentinel(targets)
    check(queries, targets, 9, 8, device)
    check(queries[1:], np.full_like(targets, sentinel(targets)), 9, 3, device)


def test_index_n_is_no_neuron(device):
    nags = move(np.array([[[0, 9], [1, 2]]], np.uint16), device)  # N = 65,535 has the sentinel for its index N
    rows = bit_search.build_rows(nags, 9)
    assert rows.row_of.nonzero().tolist() == [[0, 0], [1, 1], [1, 2]]
    counts, ids = bit_search.search(rows, nags, 1)
    assert (counts.item(), ids.item()) == (3, 0)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int64])
def test_dtypes_and_views(dtype, device):
    targets, queries = draw(50, 3, 8, 19), draw(1, 3, 8, 19, seed=1)
    targets[3] = sentinel(targets)
    expected = reference_sets.nearest(queries[:, 1:, :6], targets[:, 1:, :6], 19, 5)
    as_dtype = np.where(targets == sentinel(targets), np.asarray(-1).astype(dtype), targets.astype(dtype))
    rows = bit_search.build_rows(move(as_dtype, device)[:, 1:, :6], 19)
    found = bit_search.search(rows, move(queries.astype(dtype), device)[:, 1:, :6], 5)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got.cpu().numpy(), wanted)


def test_queries_may_have_another_k(device):
    targets, queries = draw(40, 2, 5, 19), draw(1, 2, 9, 19, seed=1)
    check(queries, targets, 19, 6, device)


@pytest.mark.parametrize("launches", [1, 3])
def test_launches_do_not_change_the_result(launches, device, monkeypatch):
    monkeypatch.setattr(bit_search, "LAUNCH_BYTES", (8 * 4 + 4 * 6) * launches)
    check(draw(4, 2, 3, 9, seed=1), draw(33, 2, 3, 9), 9, 4, device)


def test_no_queries(device):
    rows = bit_search.build_rows(move(draw(5, 2, 3, 9), device), 9)
    counts, ids = bit_search.search(rows, move(draw(5, 2, 3, 9)[:0], device), 4)
    assert counts.shape == ids.shape == (0, 4)


@pytest.mark.parametrize(("largest", "planes"), [(1, 5), (16, 5), (31, 5), (32, 6), (560, 10), (1024, 11)])
def test_planes_hold_the_largest_count(largest, planes):
    assert bit_search.plane_count(largest) == planes
