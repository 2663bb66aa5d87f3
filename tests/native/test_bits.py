"""_C.BitTargets against the plain definition, reference_sets.nearest."""

from functools import cache

import numpy as np
import pytest

from nagfast import _C, reference_sets

INDEX_TYPES = [np.uint16, np.uint32]
# targets, queries, L, K, N, neighbours
SHAPES = [(1, 1, 1, 1, 1, 1), (3, 5, 2, 3, 7, 5), (255, 9, 1, 2, 5, 3), (256, 8, 3, 20, 64, 10), (513, 70, 2, 5, 40, 1)]
SHAPES += [(700, 33, 28, 20, 300, 10), (1100, 20, 3, 4, 30, 600), (1600, 130, 6, 7, 500, 25), (90, 11, 5, 33, 33, 4)]


def draw(documents, layers, k, neurons, dtype, seed=0):
    """Draw NAGs [n, L, K] of distinct neurons below N, the low ones more often, some documents nearly alike."""
    rng = np.random.default_rng(seed)
    ranks = rng.random((documents, layers, neurons)) * (np.arange(neurons) + 3.0)
    alike = rng.random(documents) < 0.3
    ranks[alike] = ranks[0] + 0.2 * ranks[alike]
    return np.argsort(ranks, axis=2)[:, :, :k].astype(dtype)


def nothing(queries, k):
    return np.full((queries, k), -1, np.int32), np.full((queries, k), -1, np.int64)


def expected(queries, targets, rows, neurons, k, first=0):
    """The nearest of the targets of `rows`, whatever their order; ids are rows + first."""
    rows = np.sort(np.asarray(rows, np.int64))
    if len(rows) == 0:
        return nothing(len(queries), k)
    counts, places = reference_sets.nearest(queries, targets[rows], neurons, k)
    return counts, np.where(places >= 0, rows[places] + first, -1)


@cache
def case(shape, dtype):
    """Draw targets and queries, one of each without a NAG, and find the nearest."""
    n, q, layers, k, neurons, neighbours = shape
    targets, queries = draw(n, layers, k, neurons, dtype), draw(q, layers, k, neurons, dtype, seed=1)
    targets[n // 2] = queries[0] = np.iinfo(dtype).max
    return targets, queries, expected(queries, targets, np.arange(n), neurons, neighbours)


def search(index, queries, k, **options):
    results = nothing(len(queries), k)
    index.search(queries, *results, **options)
    return results


def same(got, want):
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("dtype", INDEX_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_search_equals_the_reference(shape, dtype, isa, threads):
    n, _, _, _, neurons, neighbours = shape
    targets, queries, want = case(shape, dtype)
    for order in (None, np.random.default_rng(2).permutation(n), np.arange(n)[::-1].copy()):
        index = _C.BitTargets(targets, neurons, order=order, threads=threads)
        assert (index.lanes, index.lists) == (n, 1)
        same(search(index, queries, neighbours, isa=isa, threads=threads), want)


def test_no_targets_and_no_queries(isa):
    targets, queries = draw(5, 2, 3, 9, np.uint16), draw(4, 2, 3, 9, np.uint16)
    same(search(_C.BitTargets(targets[:0], 9), queries, 3, isa=isa), nothing(4, 3))
    same(search(_C.BitTargets(targets, 9), queries[:0], 3, isa=isa), nothing(0, 3))
    index = _C.BitTargets(targets, 9, order=np.zeros(0, np.int64), starts=np.zeros(1, np.int64))
    assert (index.lanes, index.lists) == (0, 0)
    same(search(index, queries, 3, isa=isa), nothing(4, 3))


def test_ties_go_to_the_lower_id_in_any_lane_order(isa):
    targets = np.tile(draw(3, 2, 4, 20, np.uint16), (500, 1, 1))
    queries = np.concatenate([targets[:3], draw(6, 2, 4, 20, np.uint16, seed=5)])
    queries[8] = 0xFFFF  # nothing in common with anything: ids 0, 1, 2, ...
    want = expected(queries, targets, np.arange(1500), 20, 700)
    assert (want[1][8] == np.arange(700)).all()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(1500)
        same(search(_C.BitTargets(targets, 20, order=order), queries, 700, isa=isa), want)


def test_every_layer_and_neuron_in_common(isa):
    """The largest sums: every plane is used, and the early stop must not drop a target that is exactly as near."""
    for layers, k in [(1, 1), (1, 63), (4, 16), (5, 13), (28, 20), (1, 64), (3, 300)]:
        base = draw(1, layers, k, k + 5, np.uint16)
        targets = np.repeat(base, 600, axis=0)
        for row in range(1, 600):
            if row % 3:
                targets[row, row % layers] = draw(1, 1, k, k + 5, np.uint16, seed=row)[0]
        want = expected(base, targets, np.arange(600), k + 5, 250)
        assert want[0][0, 0] == layers * k
        order = np.random.default_rng(k).permutation(600)
        same(search(_C.BitTargets(targets, k + 5, order=order), base, 250, isa=isa), want)


def test_results_are_merged(isa):
    targets, queries = draw(1300, 3, 5, 50, np.uint16), draw(40, 3, 5, 50, np.uint16, seed=1)
    want = expected(queries, targets, np.arange(1300), 50, 20)
    parts = [(700, 1300), (0, 10), (10, 700)]
    results = nothing(40, 20)
    for start, end in parts:
        _C.BitTargets(targets[start:end], 50).search(queries, *results, first=start, isa=isa)
    same(results, want)
    far = 2**40
    same(search(_C.BitTargets(targets, 50), queries, 20, first=far, isa=isa), (want[0], want[1] + far))


@pytest.mark.parametrize("dtype", INDEX_TYPES)
def test_a_subset_of_rows_and_strided_views(dtype, isa):
    wide = draw(900, 6, 40, 90, dtype)
    targets, queries = wide[::2, 1:5, :17], wide[1::7, ::-1][:, 2:, :17][:, :4]
    rows = np.random.default_rng(3).choice(len(targets), 333, replace=False)
    index = _C.BitTargets(targets, 90, order=rows)
    same(search(index, queries, 12, isa=isa), expected(queries, targets, rows, 90, 12))


def test_targets_are_not_kept():
    targets, queries = draw(300, 2, 5, 40, np.uint16), draw(8, 2, 5, 40, np.uint16, seed=1)
    want = expected(queries, targets, np.arange(300), 40, 5)
    index = _C.BitTargets(targets, 40)
    targets[:] = 0
    same(search(index, queries, 5), want)


def test_a_row_named_twice_is_two_targets():
    targets = draw(4, 2, 3, 9, np.uint16)
    got = search(_C.BitTargets(targets, 9, order=np.array([2, 2, 1])), targets[2:3], 4)
    assert got[1][0, :2].tolist() == [2, 2]
    assert got[0][0].tolist() == [6, 6, got[0][0, 2], -1]


LAYOUTS = {
    "small": tuple(np.random.default_rng(7).integers(0, 60, 40).tolist()),
    "large": (700, 0, 513, 512, 1030, 1),
    "mixed": (256, 257, 1, 255, 300, 0, 512, 513, 40, 216),
    "one": (900,),
}


@cache
def list_case(layout):
    """Draw targets in lists, queries and probes; with the counts of every pair, and the list of every target."""
    sizes = LAYOUTS[layout]
    rng = np.random.default_rng(8)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    targets, queries = draw(int(starts[-1]) + 30, 3, 6, 80, np.uint16), draw(70, 3, 6, 80, np.uint16, seed=1)
    order = rng.permutation(len(targets))[: starts[-1]]
    queries[3] = 0xFFFF
    probes = rng.integers(-1, len(sizes), (70, 5)).astype(np.int32)
    probes[0] = -1
    probes[1] = probes[1, 0]  # one list, five times
    list_of = np.full(len(targets), -2)
    list_of[order] = np.repeat(np.arange(len(sizes)), sizes)
    return targets, queries, order, starts, probes, list_of, reference_sets.overlap_counts(queries, targets, 80)


def nearest_in_lists(counts, list_of, probes, k):
    """The k nearest among the targets of the lists probed: reference_sets.nearest on those, query by query."""
    best = nothing(len(probes), k)
    for query, lists in enumerate(probes):
        rows = np.flatnonzero(np.isin(list_of, lists[lists >= 0]))
        rows = rows[np.argsort(-counts[query, rows], kind="stable")][:k]
        best[0][query, : len(rows)] = counts[query, rows]
        best[1][query, : len(rows)] = rows
    return best


@pytest.mark.parametrize("layout", LAYOUTS)
def test_search_lists_equals_the_reference(layout, isa, threads):
    targets, queries, order, starts, probes, list_of, counts = list_case(layout)
    lists = len(starts) - 1
    index = _C.BitTargets(targets, 80, order=order, starts=starts, threads=threads)
    assert (index.lanes, index.lists) == (starts[-1], lists)
    for neighbours in [1, 10, 900]:
        results = nothing(70, neighbours)
        index.search_lists(queries, probes, *results, isa=isa, threads=threads)
        same(results, nearest_in_lists(counts, list_of, probes, neighbours))
    every = np.tile(np.arange(lists, dtype=np.int32), (70, 1))
    want = nearest_in_lists(counts, list_of, every, 30)
    results = nothing(70, 30)
    index.search_lists(queries, every, *results, isa=isa)
    same(results, want)
    same(search(index, queries, 30, isa=isa), want)


def test_bytes_grow_with_the_targets():
    targets = draw(1024, 4, 10, 100, np.uint16)
    few, many = _C.BitTargets(targets[:512], 100).bytes, _C.BitTargets(targets, 100).bytes
    # A block has a map, a row of zeros, one for each lane, and at most one for each neuron of each layer.
    assert 512 * 64 < few < 4 * 100 * (4 + 64) + 513 * 64 + 8 * 512 + 500
    assert few < many < 2.1 * few
    assert _C.BitTargets(np.tile(targets[:1], (512, 1, 1)), 100).bytes < few


NAGS = np.tile(np.arange(3, dtype=np.uint16), (4, 2, 1))


@pytest.mark.parametrize(
    ("nags", "neurons", "options", "message"),
    [
        (NAGS.astype(np.int64), 9, {}, r"nags: expected uint16 or uint32, got int64 \[4, 2, 3\]"),
        (NAGS[0], 9, {}, "nags: expected 3 dimensions"),
        (NAGS, 0, {}, "neurons: it is 0; give the neurons of a layer"),
        (NAGS, 2, {}, "nags: document 0, layer 0 holds index 2, but a layer has N = 2"),
        (NAGS, 65536, {}, "nags: expected uint32 for layers of 65536 neurons"),
        (np.zeros((1, 2, 40_000), np.uint16), 9, {}, "nags: expected at most 65534 entries a document"),
        (NAGS, 9, {"order": np.array([0, 4])}, "order: entry 1 is 4; nags has 4 rows"),
        (NAGS, 9, {"order": np.array([-1])}, "order: entry 0 is -1"),
        (NAGS, 9, {"order": np.arange(4, dtype=np.int32)}, "order: expected int64, got int32"),
        (NAGS, 9, {"starts": np.array([0, 3])}, "starts: the last entry is 3; it must be the number of lanes, 4"),
        (NAGS, 9, {"starts": np.array([0, 3, 2, 4])}, "starts: entry 2 is 2; entries must rise"),
        (NAGS, 9, {"starts": np.array([1, 4])}, "starts: entry 0 is 1"),
        (NAGS, 9, {"starts": np.zeros(0, np.int64)}, "starts: expected at least one entry"),
        (NAGS, 9, {"threads": 0}, "threads: expected 1 to 1024, got 0"),
    ],
)
def test_wrong_arguments_of_the_constructor_are_named(nags, neurons, options, message):
    with pytest.raises(ValueError, match=message):
        _C.BitTargets(nags, neurons, **options)


COUNTS, IDS = nothing(4, 2)
STRAY = np.array([[5, 2], [-1, -1], [-1, -1], [-1, -1]], np.int32)


@pytest.mark.parametrize(
    ("queries", "counts", "ids", "options", "message"),
    [
        (NAGS.astype(np.float32), COUNTS, IDS, {}, "queries: expected uint16 or uint32, got float32"),
        (NAGS[:, :1], COUNTS, IDS, {}, r"queries: expected \[n, 2, 3\], as targets, got uint16 \[4, 1, 3\]"),
        (NAGS[:, :, :2], COUNTS, IDS, {}, r"queries: expected \[n, 2, 3\]"),
        (NAGS, COUNTS[:3], IDS, {}, r"counts: expected shape \[4, 2\], got int32 \[3, 2\]"),
        (NAGS, COUNTS.astype(np.int64), IDS, {}, "counts: expected int32, got int64"),
        (NAGS, COUNTS[:, :0], IDS[:, :0], {}, "counts: expected 1 to 4096 columns"),
        (NAGS, COUNTS, IDS.astype(np.int32), {}, "ids: expected int64, got int32"),
        (NAGS, COUNTS, IDS[:, :1], {}, r"ids: expected shape \[4, 2\]"),
        (NAGS, STRAY, IDS, {}, "counts: row 0 holds id -1, whose count is 5; start with -1"),
        (NAGS, COUNTS, IDS, {"first": -1}, "first: it is -1; ids run from 0"),
        (NAGS, COUNTS, IDS, {"first": 2**48 - 3}, "first: it is 281474976710653"),
        (NAGS, COUNTS, IDS, {"isa": "mmx"}, "isa: 'mmx' is not available here"),
        (NAGS, COUNTS, IDS, {"threads": 2000}, "threads: expected 1 to 1024, got 2000"),
    ],
)
def test_wrong_arguments_of_search_are_named(queries, counts, ids, options, message):
    index = _C.BitTargets(NAGS, 9)
    with pytest.raises(ValueError, match=message):
        index.search(queries, counts, ids, **options)
    probes = np.zeros((4, 1), np.int32)
    with pytest.raises(ValueError, match=message):
        index.search_lists(queries, probes, counts, ids, **options)


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (np.zeros((3, 1), np.int32), r"probes: expected shape \[4, 1\]"),
        (np.zeros(4, np.int32), "probes: expected 2 dimensions"),
        (np.zeros((4, 1), np.int64), "probes: expected int32, got int64"),
        (np.array([[0], [0], [1], [0]], np.int32), "probes: an entry of row 2 is 1; there are 1 lists"),
        (np.full((4, 1), -2, np.int32), "probes: an entry of row 0 is -2"),
    ],
)
def test_wrong_probes_are_named(probes, message):
    with pytest.raises(ValueError, match=message):
        _C.BitTargets(NAGS, 9).search_lists(NAGS, probes, *nothing(4, 2))


@pytest.mark.parametrize("dtype", INDEX_TYPES)
def test_a_bad_query_is_named_before_anything_is_written(dtype, isa, threads):
    targets, queries = draw(50, 3, 4, 20, dtype), draw(600, 3, 4, 20, dtype, seed=1)
    index = _C.BitTargets(targets, 20)
    queries[[299, 400], 2, 3] = 20
    results = nothing(600, 2)
    with pytest.raises(ValueError, match="queries: document 299, layer 2 holds index 20, but a layer has N = 20"):
        index.search(queries, *results, isa=isa, threads=threads)
    assert (results[0] == -1).all()
    queries[200] = np.iinfo(dtype).max
    queries[200, 1, 1] = 7
    with pytest.raises(ValueError, match="queries: document 200 starts with the sentinel"):
        index.search_lists(queries, np.zeros((600, 1), np.int32), *results, isa=isa, threads=threads)
    assert (results[1] == -1).all()


def test_a_bad_target_is_named():
    targets = draw(600, 3, 4, 20, np.uint16)
    targets[[300, 301], 1, 2] = 99
    for threads in [1, 3]:
        with pytest.raises(ValueError, match="nags: document 300, layer 1 holds index 99"):
            _C.BitTargets(targets, 20, threads=threads)
