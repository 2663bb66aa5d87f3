"""_C.score and _C.count against plain NumPy."""

import numpy as np
import pytest

from nagfast import _C

INDEX_TYPES = [np.uint16, np.uint32]
SHAPES = [(0, 2, 3, 50), (1, 1, 1, 1), (3, 2, 7, 7), (5, 3, 20, 64), (127, 2, 20, 192), (128, 1, 33, 1000)]
SHAPES += [(129, 4, 5, 63), (300, 28, 20, 700), (2, 2, 16, 65535)]


def draw(shape, dtype, seed=0):
    """Draw NAGs [n, L, K] of distinct neurons below N."""
    documents, layers, k, neurons = shape
    rng = np.random.default_rng(seed)
    rows = [rng.choice(neurons, k, replace=False) for _ in range(documents * layers)]
    return np.array(rows, dtype).reshape(documents, layers, k)


def draw_table(layers, neurons, profiles, dtype, seed=1):
    top = int(np.iinfo(dtype).max)
    table = np.random.default_rng(seed).integers(0, top, (layers, neurons, profiles), dtype=dtype, endpoint=True)
    table[0, 0] = top
    return table


def without_nag(nags):
    return (nags == np.iinfo(nags.dtype).max).all(axis=(1, 2))


def reference(nags, table):
    empty = without_nag(nags)
    safe = np.where(empty[:, None, None], 0, nags).astype(np.int64)
    sums = table.astype(np.int64)[np.arange(table.shape[0])[None, :, None], safe].sum((1, 2))
    return np.where(empty[:, None], 0, sums)


def run(nags, table, **options):
    out = np.full((len(nags), table.shape[2]), -1, np.int64)
    _C.score(nags, table, out, **options)
    return out


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("count", [np.uint16, np.uint32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_score_equals_numpy(shape, count, index, isa):
    nags = draw(shape, index)
    for profiles in [1, 2, 7, 8, 16, 31, 32, 64, 121]:
        if shape[3] * profiles > 1_000_000:
            continue
        table = draw_table(shape[1], shape[3], profiles, count)
        np.testing.assert_array_equal(run(nags, table, isa=isa), reference(nags, table))


@pytest.mark.parametrize("profiles", [1, 40])
def test_largest_counts_do_not_overflow(profiles, isa):
    nags = np.tile(np.arange(6000, dtype=np.uint16), (2, 40, 1))
    table = np.full((40, 6000, profiles), 65535, np.uint16)
    assert (run(nags, table, isa=isa) == 40 * 6000 * 65535).all()


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_documents_without_a_nag_have_sum_zero(index, isa, threads):
    nags = draw((400, 3, 20, 100), index)
    nags[[0, 5, 127, 128, 399]] = np.iinfo(index).max
    nags[130:300] = np.iinfo(index).max  # a whole block
    for profiles in [1, 9]:
        table = draw_table(3, 100, profiles, np.uint16)
        np.testing.assert_array_equal(run(nags, table, isa=isa, threads=threads), reference(nags, table))


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_score_reads_views(index, isa):
    wide = draw((150, 6, 40, 200), index)
    for view in [wide[..., :20], wide[:, 1:5, :17], wide[::3, ::2, 3:9], wide[::-1], wide[:, :, :1]]:
        table = draw_table(view.shape[1], 200, 1, np.uint16)
        np.testing.assert_array_equal(run(view, table, isa=isa), reference(view, table))


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("k", [1, 7, 20, 70])
def test_index_out_of_range_names_the_first(k, index, isa, threads):
    table = draw_table(3, 90, 1, np.uint16)
    for layer, entry, value in [(0, 0, 90), (1, k // 2, 91), (2, k - 1, np.iinfo(index).max - 1)]:
        nags = draw((500, 3, k, 90), index)
        nags[[131, 132, 499], layer, entry] = value
        message = rf"nags: document 131, layer {layer} holds index {value}, but a layer has N = 90"
        for view in (nags, np.concatenate([nags, nags], axis=2)[:, :, :k]):
            with pytest.raises(ValueError, match=message):
                run(view, table, isa=isa, threads=threads)
            with pytest.raises(ValueError, match=message):
                _C.count(view, np.zeros((3, 90), np.int64), threads=threads)


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_stray_sentinels_are_refused(index, isa):
    sentinel = np.iinfo(index).max
    nags = draw((3, 2, 4, 9), index)
    nags[1] = sentinel
    nags[1, 1, 2] = 8
    table = draw_table(2, 9, 1, np.uint16)
    message = f"nags: document 1 starts with the sentinel {sentinel} but holds 8 in layer 1"
    with pytest.raises(ValueError, match=message):
        run(nags, table, isa=isa)
    with pytest.raises(ValueError, match=message):
        _C.count(nags, np.zeros((2, 9), np.int64))
    nags[1] = draw((1, 2, 4, 9), index)
    nags[1, 1, 2] = sentinel
    with pytest.raises(ValueError, match=f"document 1, layer 1 holds index {sentinel}"):
        run(nags, table, isa=isa)


NAGS = np.zeros((4, 2, 3), np.uint16)
TABLE = np.zeros((2, 9, 1), np.uint16)
OUT = np.zeros((4, 1), np.int64)


@pytest.mark.parametrize(
    ("nags", "table", "out", "message"),
    [
        (NAGS.astype(np.int64), TABLE, OUT, r"nags: expected uint16 or uint32, got int64 \[4, 2, 3\]"),
        (NAGS[0], TABLE, OUT, "nags: expected 3 dimensions"),
        (NAGS[:, :, ::2], TABLE, OUT, "nags: expected a contiguous last dimension"),
        (NAGS[:, :, :0], TABLE, OUT, "nags: expected at least one layer and K >= 1"),
        (NAGS, TABLE.astype(np.uint8), OUT, "table: expected uint16 or uint32, got uint8"),
        (NAGS, TABLE[..., 0], OUT, "table: expected 3 dimensions"),
        (NAGS, TABLE[:, ::2], OUT, "table: expected a C-contiguous array"),
        (NAGS, TABLE[:1], OUT, "table: expected 2 layers, as nags has"),
        (NAGS, np.zeros((2, 65536, 1), np.uint16), OUT, "nags: expected uint32 for layers of 65536 neurons"),
        (NAGS, TABLE, OUT[:3], r"out: expected shape \[4, 1\], got int64 \[3, 1\]"),
        (NAGS, TABLE, OUT.astype(np.float64), "out: expected int64, got float64"),
    ],
)
def test_wrong_arguments_of_score_are_named(nags, table, out, message):
    with pytest.raises(ValueError, match=message):
        _C.score(nags, table, out)


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_equals_numpy(shape, index, threads):
    nags = draw(shape, index)
    if len(nags) > 2:
        nags[2] = np.iinfo(index).max
    layers, neurons = shape[1], shape[3]
    expected = np.zeros((layers, neurons), np.int64)
    for document in nags[~without_nag(nags)]:
        for layer, row in enumerate(document):
            expected[layer, row] += 1
    counts = np.full((layers, neurons), 5, np.int64)
    assert _C.count(nags, counts, threads=threads) == (~without_nag(nags)).sum()
    np.testing.assert_array_equal(counts, expected + 5)


def test_count_reads_views():
    wide = draw((70, 4, 30, 99), np.uint16)
    counts = np.zeros((2, 2, 99), np.int64)
    _C.count(wide[::2, 1:3, :20], counts[0])
    _C.count(np.ascontiguousarray(wide[::2, 1:3, :20]), counts[1])
    np.testing.assert_array_equal(counts[0], counts[1])
    assert counts[0].sum() == 35 * 2 * 20


def test_duplicates_are_refused_before_anything_is_added(threads):
    nags = draw((300, 3, 20, 100), np.uint16)
    nags[[150, 151], 2, 19] = nags[[150, 151], 2, 4]
    counts = np.zeros((3, 100), np.int64)
    with pytest.raises(ValueError, match=f"document 150, layer 2 holds neuron {nags[150, 2, 4]} twice"):
        _C.count(nags, counts, threads=threads)
    assert not counts.any()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 9), np.int32), "counts: expected int64, got int32"),
        (np.zeros((3, 9), np.int64), "counts: expected 2 layers, as nags has"),
        (np.zeros(9, np.int64), "counts: expected 2 dimensions"),
        (np.zeros((2, 18), np.int64)[:, ::2], "counts: expected a C-contiguous array"),
    ],
)
def test_wrong_arguments_of_count_are_named(counts, message):
    with pytest.raises(ValueError, match=message):
        _C.count(NAGS, counts)
