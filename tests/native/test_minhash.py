"""_C.minhash against plain NumPy and, where it is installed, against datasketch."""

import numpy as np
import pytest

from nagfast import _C, minhash, reference_sets

INDEX_TYPES = [np.uint16, np.uint32]
SHAPES = [(0, 2, 3, 50), (1, 1, 1, 1), (3, 2, 7, 7), (5, 3, 20, 64), (33, 4, 5, 63), (17, 28, 20, 700)]
SHAPES += [(2, 2, 16, 65535)]


def draw(shape, dtype, seed=0):
    """Draw NAGs [n, L, K] of distinct neurons below N."""
    documents, layers, k, neurons = shape
    rng = np.random.default_rng(seed)
    rows = [rng.choice(neurons, k, replace=False) for _ in range(documents * layers)]
    return np.array(rows, dtype).reshape(documents, layers, k)


def run(nags, neurons, num_perm=128, seed=1, **options):
    a, b = minhash.permutations(num_perm, seed)
    out = np.full((len(nags), num_perm), 0xFFFF, np.uint32)
    _C.minhash(nags, neurons, a, b, out, **options)
    return out


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(shape, index, isa, threads):
    nags = draw(shape, index)
    for num_perm in [1, 3, 4, 7, 8, 9, 64, 130]:
        expected = reference_sets.minhash(nags, shape[3], *minhash.permutations(num_perm, 5))
        np.testing.assert_array_equal(run(nags, shape[3], num_perm, 5, isa=isa, threads=threads), expected)


@pytest.mark.parametrize(("seed", "num_perm"), [(0, 16), (1, 128), (1, 256), (42, 100), (2**32 - 1, 1)])
def test_equals_datasketch(seed, num_perm, isa):
    datasketch = pytest.importorskip("datasketch")
    nags = draw((6, 5, 20, 300), np.uint16, seed % 1000)
    nags[2] = 0xFFFF
    elements = nags.astype(int) + np.arange(5)[:, None] * 300
    ours = run(nags, 300, num_perm, seed, isa=isa)
    for d in range(6):
        theirs = datasketch.MinHash(num_perm, seed=seed, hashfunc=int, scheme="affine32")
        if d != 2:
            theirs.update_batch(elements[d].ravel().tolist())
        np.testing.assert_array_equal(ours[d], theirs.hashvalues)
        np.testing.assert_array_equal(minhash.permutations(num_perm, seed), theirs.permutations)


def test_permutations_of_seed_one():
    a, b = minhash.permutations(2, 1)
    assert (a % 2 == 1).all()
    assert a.dtype == b.dtype == np.uint32
    generator = np.random.RandomState(1)
    drawn = [int(generator.randint(0, 2**32, dtype=np.uint32)) for _ in range(4)]
    assert a.tolist() == [2 * (word % 2**31) + 1 for word in drawn[:2]]
    assert b.tolist() == drawn[2:]


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_documents_without_a_nag_are_empty_sets(index, isa, threads):
    nags = draw((70, 3, 6, 90), index)
    nags[[0, 15, 16, 69]] = np.iinfo(index).max
    found = run(nags, 90, 33, isa=isa, threads=threads)
    assert (found[[0, 15, 16, 69]] == 2**32 - 1).all()
    np.testing.assert_array_equal(found, reference_sets.minhash(nags, 90, *minhash.permutations(33, 1)))


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_order_and_views_do_not_matter(index, isa):
    wide = draw((40, 6, 30, 200), index)
    for view in [wide[..., :20], wide[:, 1:5, :17], wide[::3, ::2, 3:9], wide[::-1]]:
        expected = run(np.ascontiguousarray(view[..., ::-1]), 200, isa="scalar")
        np.testing.assert_array_equal(run(view, 200, isa=isa), expected)


def test_largest_elements(isa):
    """L * N of exactly 2^32."""
    nags = np.array([[[2**31 - 1], [2**31 - 1]], [[0], [0]]], np.uint32)
    expected = reference_sets.minhash(nags, 2**31, *minhash.permutations(9, 1))
    np.testing.assert_array_equal(run(nags, 2**31, 9, isa=isa), expected)


@pytest.mark.parametrize("index", INDEX_TYPES)
@pytest.mark.parametrize("k", [1, 7, 20])
def test_index_out_of_range_names_the_first(k, index, isa, threads):
    for layer, entry, value in [(0, 0, 90), (1, k // 2, 91), (2, k - 1, np.iinfo(index).max - 1)]:
        nags = draw((200, 3, k, 90), index)
        nags[[131, 132, 199], layer, entry] = value
        message = rf"nags: document 131, layer {layer} holds index {value}, but a layer has N = 90"
        with pytest.raises(ValueError, match=message):
            run(nags, 90, 4, isa=isa, threads=threads)


@pytest.mark.parametrize("index", INDEX_TYPES)
def test_stray_sentinels_are_refused(index, isa):
    nags = draw((3, 2, 4, 9), index)
    nags[1] = np.iinfo(index).max
    nags[1, 1, 2] = 8
    with pytest.raises(ValueError, match="document 1 starts with the sentinel"):
        run(nags, 9, 4, isa=isa)


NAGS = np.zeros((4, 2, 3), np.uint16)
A = np.ones(5, np.uint32)
OUT = np.zeros((4, 5), np.uint32)


@pytest.mark.parametrize(
    ("nags", "neurons", "a", "b", "out", "message"),
    [
        (NAGS.astype(np.int64), 9, A, A, OUT, "nags: expected uint16 or uint32, got int64"),
        (NAGS[:, :, ::2], 9, A, A, OUT, "nags: expected a contiguous last dimension"),
        (NAGS[:, :, :0], 9, A, A, OUT, "nags: expected at least one layer and K >= 1"),
        (NAGS, 0, A, A, OUT, "neurons: expected at least 1, got 0"),
        (NAGS, 65536, A, A, OUT, "nags: expected uint32 for layers of 65536 neurons"),
        (NAGS.astype(np.uint32), 2**31 + 1, A, A, OUT, r"neurons: 2 layers of 2147483649 .* more than 2\^32"),
        (NAGS, 9, A.astype(np.int32), A, OUT, "a: expected uint32, got int32"),
        (NAGS, 9, A[:0], A[:0], OUT[:, :0], r"a: expected \[p\] with p >= 1"),
        (NAGS, 9, A, A[:4], OUT, r"b: expected shape \[5\], got uint32 \[4\]"),
        (NAGS, 9, A, np.ones(10, np.uint32)[::2], OUT, "b: expected a C-contiguous array"),
        (NAGS, 9, A, A, OUT[:3], r"out: expected shape \[4, 5\], got uint32 \[3, 5\]"),
        (NAGS, 9, A, A, OUT.astype(np.uint64), "out: expected uint32, got uint64"),
    ],
)
def test_wrong_arguments_are_named(nags, neurons, a, b, out, message):
    with pytest.raises(ValueError, match=message):
        _C.minhash(nags, neurons, a, b, out)


def test_read_only_output_is_refused():
    out = OUT.copy()
    out.setflags(write=False)
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        _C.minhash(NAGS, 9, A, A, out)
