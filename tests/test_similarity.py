"""Similarity of NAGs: native and reference agree to the bit, and wrong arguments are named."""

import numpy as np
import pytest

from nagfast import ops, reference_sets, similarity
from nagfast.errors import ArgumentError, SpecMismatchError
from nagfast.schema import NagBatch, NagSpec

N = 50
BACKENDS = ["reference", "cpp"]


def draw(documents, k=6, seed=0, dtype=np.uint16):
    order = np.argsort(np.random.default_rng(seed).random((documents, 3, N)), axis=2)
    nags = order[:, :, :k].astype(dtype)
    nags[1:2] = np.iinfo(dtype).max
    return nags


def batch(nags, **spec):
    values = {"fingerprint": "f", "num_layers": 3, "num_neurons": N, "top_k": nags.shape[2]} | spec
    return NagBatch(nags, np.full(len(nags), 9, np.int32), NagSpec(**values))


@pytest.fixture(params=similarity.MEASURES)
def measure(request):
    """Name and weights of each measure."""
    if request.param != "idf":
        return request.param, None
    counts, documents = ops.count(draw(40, seed=9), N)
    return "idf", similarity.idf_weights(counts, documents)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_matrix_is_the_definition(measure, backend, dtype):
    a, b = draw(7, seed=1, dtype=dtype), draw(9, seed=2, dtype=dtype)
    b[4] = a[3]
    got = similarity.matrix(a, b, *measure, num_neurons=N, backend=backend, threads=2)
    np.testing.assert_array_equal(got, reference_sets.similarity_matrix(a, b, N, *measure))
    assert got[3, 4] == 1
    assert got.dtype == np.float64 and got.min() == 0 and not got[1].any() and not got[:, 1].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_pairs_are_the_diagonal(measure, backend):
    a, b = draw(20, seed=1), draw(20, k=9, seed=2)
    got = similarity.pairwise(a, b, *measure, num_neurons=N, backend=backend)
    np.testing.assert_array_equal(got, similarity.matrix(a, b, *measure, num_neurons=N, backend=backend).diagonal())


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend):
    a = np.array([[[0, 1, 2], [5, 6, 7]]], np.uint16)
    b = np.array([[[2, 9, 1], [0, 1, 2]]], np.uint16)
    options = {"num_neurons": 10, "backend": backend}
    assert similarity.pairwise(a, b, **options) == [2 / 6]
    assert similarity.pairwise(a, b, "jaccard", **options) == [2 / 10]
    weights = np.ones((2, 10), np.uint32)
    weights[0, 1] = 7
    assert similarity.pairwise(a, b, "idf", weights, **options) == [2 * 8 / (12 + 12)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_candidates(backend):
    queries, targets = draw(5, seed=1), draw(30, seed=2)
    rows = np.random.default_rng(0).integers(-1, 30, (5, 40)).astype(np.int32)
    want = reference_sets.overlap_counts(queries, targets, N)[np.arange(5)[:, None], rows]
    got = similarity.candidates(queries, targets, rows, num_neurons=N, backend=backend)
    np.testing.assert_array_equal(got, np.where(rows < 0, -1, want))
    assert got.dtype == np.int32


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_documents(backend):
    options = {"num_neurons": N, "backend": backend}
    some, none = draw(4), draw(0)
    assert similarity.matrix(some, none, **options).shape == (4, 0)
    assert similarity.matrix(none, some, **options).shape == (0, 4)
    assert similarity.pairwise(none, none, **options).shape == (0,)
    missing = np.full((4, 2), -1)
    np.testing.assert_array_equal(similarity.candidates(some, none, missing, **options), missing)


def test_batches_bring_their_neurons():
    a, b = draw(4, seed=1), draw(4, seed=2)
    want = similarity.matrix(a, b, num_neurons=N)
    np.testing.assert_array_equal(similarity.matrix(batch(a), batch(b)), want)
    np.testing.assert_array_equal(similarity.matrix(batch(a), b), want)
    np.testing.assert_array_equal(
        similarity.matrix(batch(a), batch(b[:, :, :4])), similarity.matrix(batch(a), b[:, :, :4])
    )


def test_batches_of_other_origin_are_refused():
    a, b = batch(draw(4)), batch(draw(4), max_length=60)
    rows = np.zeros((4, 1), np.int64)
    for call in (similarity.pairwise, similarity.matrix, lambda a, b: similarity.candidates(a, b, rows)):
        with pytest.raises(SpecMismatchError, match=r"max_length=120.*max_length=60.*max_length: 120 against 60"):
            call(a, b)


def test_idf_weights_are_whole_and_checked():
    counts, documents = ops.count(draw(40), N)
    weights = similarity.idf_weights(counts, documents)
    assert weights.dtype == np.uint32
    np.testing.assert_allclose(weights / 65536, np.log((1 + documents) / (1 + counts)), atol=1 / 65536)
    with pytest.raises(ArgumentError, match="documents: got 3, but counts run from 0 to"):
        similarity.idf_weights(counts, 3)
    with pytest.raises(ArgumentError, match="counts: got float64"):
        similarity.idf_weights(counts / 2, documents)


@pytest.mark.parametrize("backend", BACKENDS)
def test_count_sketch(backend):
    nags, weights = draw(10), np.random.default_rng(1).random((3, N), dtype=np.float32)
    got = similarity.count_sketch(nags, weights, 64, seed=3, backend=backend)
    want = reference_sets.count_sketch(nags, weights, 64, seed=3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-6, rtol=0)
    assert not got[1].any()
    for wrong, message in [
        ((nags, weights, 63), "dimensions: got 63"),
        ((nags, weights[:2], 64), "weights: got 2 layers"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            similarity.count_sketch(*wrong, backend=backend)


WEIGHTS = np.ones((3, N), np.uint32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((draw(4), draw(4)), {"num_neurons": None}, "num_neurons: got None; give N"),
        ((batch(draw(4)), draw(4)), {"num_neurons": 49}, "num_neurons: got 49, but a has 50"),
        ((draw(4), draw(4).astype(np.int64)), {}, r"b: got int64 \[4, 3, 6\]"),
        ((draw(4), draw(4, dtype=np.uint32)), {}, r"b: got uint32 \[4, 3, 6\], but a is uint16"),
        ((draw(4), draw(4)[:, :2]), {}, r"b: got uint16 \[4, 2, 6\], but a is uint16 \[4, 3, 6\]"),
        ((draw(4), draw(4), "cosine"), {}, "measure: got 'cosine'; use one of overlap, jaccard, idf"),
        ((draw(4), draw(4), "idf"), {}, "idf: got none with measure 'idf'"),
        ((draw(4), draw(4), "jaccard", WEIGHTS), {}, "idf: got weights with measure 'jaccard'"),
        ((draw(4), draw(4), "idf", WEIGHTS[:2]), {}, r"idf: got uint32 \[2, 50\]; give uint32 \[3, 50\]"),
        ((draw(4), draw(4), "idf", -WEIGHTS.astype(np.int64)), {}, "idf: got int64"),
        ((draw(4), draw(4)), {"num_neurons": 40}, "40"),
        ((draw(4), draw(4)), {"threads": 0, "backend": "cpp"}, "threads: got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, message, backend):
    with pytest.raises(ArgumentError, match=message):
        similarity.matrix(*arguments, **({"num_neurons": N, "backend": backend} | options))


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_wrong_arguments_are_named(backend):
    options = {"num_neurons": N, "backend": backend}
    with pytest.raises(ArgumentError, match="b: got 3 documents, a has 4"):
        similarity.pairwise(draw(4), draw(3), **options)
    with pytest.raises(ArgumentError, match=r"candidates: got int64 \[3, 1\]"):
        similarity.candidates(draw(4), draw(4), np.zeros((3, 1), np.int64), **options)
    with pytest.raises(ArgumentError, match="candidates: .*there are 4 targets"):
        similarity.candidates(draw(4), draw(4), np.full((4, 1), 4), **options)
