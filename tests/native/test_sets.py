"""_C.overlap_pairs, overlap_matrix, overlap_candidates and count_sketch against plain NumPy."""

import numpy as np
import pytest

from nagfast import _C, reference_sets

INDEX_TYPES = [np.uint16, np.uint32]
# documents a, documents b, layers, K of a, K of b, neurons; K around the 8, 16 and 32 lanes of a vector
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (3, 4, 2, 7, 7, 7),
    (5, 9, 3, 20, 20, 64),
    (4, 70, 28, 20, 20, 700),
    (3, 5, 5, 16, 16, 99),
]
SHAPES += [(3, 5, 3, 24, 25, 300), (4, 6, 1, 31, 32, 300), (4, 6, 3, 33, 20, 100), (2, 3, 4, 96, 64, 96)]
SHAPES += [(2, 3, 3, 97, 40, 200), (2, 9, 1, 17, 23, 65535), (2, 5, 2, 1, 48, 60), (0, 4, 2, 20, 20, 50)]
SHAPES += [(4, 0, 2, 20, 20, 50), (3, 3, 2, 40, 15, 41)]


def draw(documents, layers, k, neurons, dtype=np.uint16, seed=0):
    """Draw NAGs [n, L, K] of distinct neurons below N, the third without a NAG."""
    order = np.argsort(np.random.default_rng(seed).random((documents, layers, neurons), dtype=np.float32), axis=2)
    nags = order[:, :, :k].astype(dtype)
    nags[2:3] = np.iinfo(dtype).max
    return nags


def draw_both(shape, dtype):
    n, m, layers, ka, kb, neurons = shape
    return draw(n, layers, ka, neurons, dtype, 1), draw(m, layers, kb, neurons, dtype, 2)


def draw_weights(layers, neurons):
    weights = np.random.default_rng(3).integers(0, 2**32, (layers, neurons), dtype=np.uint32)
    weights[0, 0] = 2**32 - 1
    return weights


def expected_matrix(a, b, neurons, weights=None):
    """Sums over the cells that both hold, from members()."""
    scale = np.ones(a.shape[1] * neurons, np.int64) if weights is None else weights.reshape(-1).astype(np.int64)
    in_a = reference_sets.members(a, neurons).astype(np.int64) * scale
    return in_a @ reference_sets.members(b, neurons).astype(np.int64).T


def matrix(a, b, neurons, weights=None, **options):
    out = np.full((len(a), len(b)), -7, np.int32 if weights is None else np.int64)
    _C.overlap_matrix(a, b, out, neurons=neurons, weights=weights, **options)
    return out


def among(a, b, candidates, neurons, weights=None, **options):
    out = np.full(candidates.shape, -7, np.int32 if weights is None else np.int64)
    _C.overlap_candidates(a, b, candidates, out, neurons=neurons, weights=weights, **options)
    return out


def pairs(a, b, neurons, weights=None, **options):
    out = np.full(len(a), -7, np.int32 if weights is None else np.int64)
    _C.overlap_pairs(a, b, out, neurons=neurons, weights=weights, **options)
    return out


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matrix_equals_numpy(shape, index, set_isa):
    a, b = draw_both(shape, index)
    neurons = shape[5]
    np.testing.assert_array_equal(matrix(a, b, neurons, isa=set_isa), expected_matrix(a, b, neurons))
    weights = draw_weights(shape[2], neurons)
    np.testing.assert_array_equal(matrix(a, b, neurons, weights, isa=set_isa), expected_matrix(a, b, neurons, weights))


def test_equal_sets_share_all(set_isa):
    for k in [16, 20, 32, 33, 64, 96]:
        a = draw(2, 3, k, 100)
        b = np.ascontiguousarray(a[:, :, np.random.default_rng(0).permutation(k)])
        np.testing.assert_array_equal(matrix(a, b, 100, isa=set_isa).diagonal(), 3 * k)


@pytest.mark.parametrize("step", [8, 32, 2048])
def test_neurons_of_one_bucket(step, set_isa):
    """Multiples of a power of two crowd into few buckets under any multiplier, so that the buckets get deep."""
    a = (np.arange(24) * step % 65521).astype(np.uint16).reshape(1, 1, 24)
    b = np.stack([a[0], a[0] + np.uint16(step // 2), np.roll(a[0], 5, axis=1)])
    b[1, 0, 3] = a[0, 0, 17]
    np.testing.assert_array_equal(matrix(a, b, 65535, isa=set_isa), [[24, 1, 24]])


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_candidates_equal_numpy(index, set_isa, threads):
    a, b = draw(7, 4, 20, 90, index, 1), draw(50, 4, 20, 90, index, 2)
    candidates = np.random.default_rng(0).integers(-1, 50, (7, 700))
    candidates[3] = -1
    for weights in (None, draw_weights(4, 90)):
        full = expected_matrix(a, b, 90, weights)
        want = np.where(candidates < 0, -1, np.take_along_axis(full, np.maximum(candidates, 0), axis=1))
        np.testing.assert_array_equal(among(a, b, candidates, 90, weights, isa=set_isa, threads=threads), want)


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_pairs_equal_numpy(index, threads):
    a, b = draw(2500, 1, 5, 20, index, 1), draw(2500, 1, 7, 20, index, 2)
    a[[700, 701]] = b[[701, 1500], :, :5] = np.iinfo(index).max
    b[[701, 1500]] = np.iinfo(index).max
    for weights in (None, draw_weights(1, 20)):
        scale = 1 if weights is None else weights.astype(np.int64)
        both = reference_sets.members(a, 20) & reference_sets.members(b, 20)
        want = (both * scale).sum(axis=1)
        np.testing.assert_array_equal(pairs(a, b, 20, weights, threads=threads), want)


def test_threads_do_not_show(set_isa, threads):
    a, b = draw(40, 3, 20, 80, seed=1), draw(130, 3, 20, 80, seed=2)
    np.testing.assert_array_equal(matrix(a, b, 80, isa=set_isa, threads=threads), expected_matrix(a, b, 80))


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_views_are_read(index, set_isa):
    wide_a, wide_b = draw(9, 6, 60, 99, index, 1), draw(80, 6, 60, 99, index, 2)
    for cut in [np.s_[:, :, :20], np.s_[::3, 1:5, :19], np.s_[::-1, ::2, 5:30], np.s_[1::2, :, :1], np.s_[:, :1, 1:40]]:
        a, b = wide_a[cut], wide_b[cut]
        np.testing.assert_array_equal(matrix(a, b, 99, isa=set_isa), expected_matrix(a, b, 99))


def test_entries_beyond_a_view_do_not_count(set_isa):
    """Neighbours in memory hold indices that would be refused, and nothing beyond the last row is read."""
    for k in [16, 20, 24, 30, 32]:
        wide = np.full((5, 3, k + 9), 0xFFFE, np.uint16)
        wide[:, :, :k] = draw(5, 3, k, 64, seed=k)
        wide[2] = 0xFFFF
        view = wide[:, :, :k]
        np.testing.assert_array_equal(matrix(view, view, 64, isa=set_isa), expected_matrix(view, view, 64))


def test_repeats_in_a_set_count_once_in_a_and_each_in_b(set_isa):
    """Not a NAG, but the same from every instruction set."""
    a = draw(1, 2, 20, 200)
    b = a.copy()
    a[0, 0, 1:4] = a[0, 0, 0]
    b[0, 1, 1:4] = b[0, 1, 0]
    np.testing.assert_array_equal(matrix(a, b, 200, isa=set_isa), [[17 + 20]])


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("k", [1, 20, 27, 32])
def test_the_first_index_out_of_range_is_named(k, index, set_isa, threads):
    good = np.tile(draw(500, 2, k, 90, index), (6, 1, 1))
    for layer, entry, value in [(0, 0, 90), (1, k // 2, 91), (1, k - 1, np.iinfo(index).max - 1)]:
        bad = good.copy()
        bad[[1131, 1132, 2999], layer, entry] = value
        bad[[1133]] = np.iinfo(index).max
        bad[1133, 1, k - 1] = 0  # a stray sentinel, after it
        message = f"b: document 1131, layer {layer} holds index {value}, but a layer has N = 90"
        with pytest.raises(ValueError, match=message):
            matrix(good[:3], bad, 90, isa=set_isa, threads=threads)
        with pytest.raises(ValueError, match=message):
            pairs(good, bad, 90, threads=threads)
        with pytest.raises(ValueError, match=message.replace("b:", "a:")):
            matrix(bad, good[:60], 90, isa=set_isa, threads=threads)
        order = np.arange(3000)[None, ::-1].copy()  # in the order of the output
        with pytest.raises(ValueError, match="b: document 2999"):
            among(good[:1], bad, order, 90, isa=set_isa, threads=threads)


def test_stray_sentinels_are_refused(set_isa):
    good, bad = draw(2, 2, 20, 90), draw(4, 2, 20, 90)
    bad[1] = 0xFFFF
    bad[1, 1, 2] = 8
    message = "document 1 starts with the sentinel 65535 but holds 8 in layer 1"
    with pytest.raises(ValueError, match="b: " + message):
        matrix(good, bad, 90, isa=set_isa)
    with pytest.raises(ValueError, match="a: " + message):
        matrix(bad, good, 90, isa=set_isa)


def test_candidates_that_are_no_rows_are_refused(set_isa, threads):
    a, b = draw(2, 2, 20, 90, seed=1), draw(60, 2, 20, 90, seed=2)
    for value in [60, -2, 2**62, -(2**62)]:
        candidates = np.zeros((2, 1500), np.int64)
        candidates[1, [333, 1400]] = value
        with pytest.raises(ValueError, match=rf"candidates: entry \[1, 333\] is {value}, but there are 60 targets"):
            among(a, b, candidates, 90, isa=set_isa, threads=threads)


A = np.zeros((4, 2, 3), np.uint16)
OUT = np.zeros((4, 4), np.int32)
WEIGHTS = np.zeros((2, 9), np.uint32)


@pytest.mark.parametrize(
    ("a", "b", "out", "options", "message"),
    [
        (A.astype(np.int64), A, OUT, {}, "a: expected uint16 or uint32, got int64"),
        (A, A.astype(np.uint32), OUT, {}, r"b: expected uint16 \[4, 2, 3\], the type of a, got uint32"),
        (A, A[:, :1], OUT, {}, "b: expected 2 layers, as a has"),
        (A[0], A, OUT, {}, "a: expected 3 dimensions"),
        (A[:, :, ::2], A, OUT, {}, "a: expected a contiguous last dimension"),
        (A, A[:, :, :0], OUT, {}, "b: expected at least one layer and K >= 1"),
        (A, A, OUT, {"neurons": 0}, "neurons: expected at least 1, got 0"),
        (A, A, OUT, {"neurons": 65536}, "a: expected uint32 for layers of 65536 neurons"),
        (A, A, OUT[:3], {}, r"out: expected shape \[4, 4\], got int32 \[3, 4\]"),
        (A, A, OUT.astype(np.int64), {}, r"out: expected int32 \(int64 with weights\), got int64"),
        (A, A, OUT, {"weights": WEIGHTS}, r"out: expected int64 \(int32 without weights\), got int32"),
        (A, A, OUT, {"weights": WEIGHTS[:, :8]}, r"weights: expected shape \[2, 9\]"),
        (A, A, OUT, {"weights": WEIGHTS.astype(np.float32)}, "weights: expected uint32, got float32"),
        (A, A, OUT, {"threads": 0}, "threads: expected 1 to 1024, got 0"),
        (A, A, OUT, {"isa": "sse9"}, "isa: 'sse9' is not available"),
    ],
)
def test_wrong_arguments_are_named(a, b, out, options, message):
    with pytest.raises(ValueError, match=message):
        _C.overlap_matrix(a, b, out, **({"neurons": 9} | options))


def test_other_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="b: expected 4 documents, as a has"):
        _C.overlap_pairs(A, A[:3], np.zeros(4, np.int32), neurons=9)
    with pytest.raises(ValueError, match="candidates: expected int64, got int32"):
        _C.overlap_candidates(A, A, OUT.copy(), OUT.copy(), neurons=9)
    with pytest.raises(ValueError, match=r"candidates: expected shape \[4, 2\], got int64 \[3, 2\]"):
        _C.overlap_candidates(A, A, np.zeros((3, 2), np.int64), np.zeros((4, 2), np.int32), neurons=9)
    frozen = OUT.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        _C.overlap_matrix(A, A, frozen, neurons=9)


# --- count sketch -----------------------------------------------------------------------------------------------------

SKETCH_TOLERANCE = 1e-6  # one rounding to float32, and sums of squares in another order


def sketch(nags, weights, dimensions, **options):
    out = np.full((len(nags), dimensions), np.nan, np.float32)
    _C.count_sketch(nags, weights, out, **options)
    return out


def draw_floats(layers, neurons):
    return np.random.default_rng(5).random((layers, neurons), dtype=np.float32) * 4


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("dimensions", [1, 2, 64, 4096])
def test_sketch_equals_the_reference(dimensions, index):
    nags, weights = draw(70, 3, 20, 300, index), draw_floats(3, 300)
    for seed in [0, 1, 2**64 - 1]:
        want = reference_sets.count_sketch(nags, weights, dimensions, seed)
        np.testing.assert_allclose(sketch(nags, weights, dimensions, seed=seed), want, atol=SKETCH_TOLERANCE, rtol=0)


def test_sketch_has_the_same_bytes_from_views_and_threads(threads):
    wide, weights = draw(200, 2, 40, 100), draw_floats(2, 100)
    got = sketch(wide[:, :, :20], weights, 128, threads=threads)
    assert got.tobytes() == sketch(np.ascontiguousarray(wide[:, :, :20]), weights, 128).tobytes()


def test_sketches_have_length_one_or_zero():
    nags = draw(20, 3, 20, 100)
    lengths = np.linalg.norm(sketch(nags, draw_floats(3, 100), 256), axis=1)
    np.testing.assert_allclose(lengths, np.arange(20) != 2, atol=SKETCH_TOLERANCE)
    assert not sketch(nags, np.zeros((3, 100), np.float32), 256).any()


def test_sketches_estimate_the_cosine():
    a, b = draw(2, 28, 20, 200, seed=1), draw(40, 28, 20, 200, seed=2)
    b[20:, :14] = a[0, :14]
    estimate = sketch(a, np.ones((28, 200), np.float32), 4096) @ sketch(b, np.ones((28, 200), np.float32), 4096).T
    exact = expected_matrix(a, b, 200) / 560
    assert np.abs(estimate - exact).max() < 0.08
    assert abs((estimate - exact).mean()) < 0.01


def test_wrong_arguments_of_sketch_are_named():
    weights = np.ones((2, 9), np.float32)
    for columns in [0, 3, 131072]:
        with pytest.raises(ValueError, match="out: expected a power of two up to 65536 columns"):
            sketch(A, weights, columns)
    with pytest.raises(ValueError, match="weights: expected float32, got float64"):
        sketch(A, weights.astype(np.float64), 8)
    with pytest.raises(ValueError, match=r"weights: expected shape \[2, 9\], got float32 \[3, 9\]"):
        sketch(A, np.ones((3, 9), np.float32), 8)
    wrong = A.copy()
    wrong[3, 1, 2] = 9
    with pytest.raises(ValueError, match="nags: document 3, layer 1 holds index 9, but a layer has N = 9"):
        sketch(wrong, weights, 8)
