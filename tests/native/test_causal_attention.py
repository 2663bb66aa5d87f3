"""_C.causal_attention against float64, and equal to the bit among instruction sets, threads and packings."""

import itertools

import numpy as np
import pytest
from test_swiglu_impact import draw, ends, to_bfloat16, widen

from nagfast import _C

DTYPES = [np.float32, np.uint16]
LENGTHS = [[1], [0, 0, 3, 0], [5, 0, 6, 1, 7], [64, 65], [130]]
SCALE = 0.25


def attention64(query, key, value, cu_seqlens, window=None):
    """Attention by definition, in float64."""
    query, key, value = (widen(x).astype(np.float64) for x in (query, key, value))
    group = query.shape[1] // key.shape[1]
    out = np.zeros((*query.shape[:2], value.shape[2]))
    for first, last in itertools.pairwise(cu_seqlens):
        for t, h in itertools.product(range(first, last), range(query.shape[1])):
            seen = slice(max(first, t + 1 - window) if window else first, t + 1)
            scores = key[seen, h // group] @ query[t, h] * SCALE
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ value[seen, h // group] / weights.sum()
    return out


def heads(tokens, count, dim, dtype, seed):
    return draw(tokens, count * dim, dtype, seed).reshape(tokens, count, dim)


def drawn(tokens, dim, value_dim, dtype, shape=(4, 2)):
    """Queries, keys and values of `shape` heads."""
    return (
        heads(tokens, shape[0], dim, dtype, 1),
        heads(tokens, shape[1], dim, dtype, 2),
        heads(tokens, shape[1], value_dim, dtype, 3),
    )


def run(query, key, value, cu_seqlens, **options):
    """Attention in poisoned memory."""
    out = np.full((*query.shape[:2], value.shape[2]), 0x7FC0 if query.dtype == np.uint16 else np.nan, query.dtype)
    _C.causal_attention(query, key, value, cu_seqlens, out, SCALE, **options)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_equals_float64(window, lengths, dtype, isa):
    cu_seqlens = ends(lengths)
    for dim, value_dim in [(2, 7), (16, 16), (20, 65), (64, 96)][: 2 if isa == "scalar" else None]:
        arrays = drawn(cu_seqlens[-1], dim, value_dim, dtype)
        got = widen(run(*arrays, cu_seqlens, window=window, isa=isa))
        expected = attention64(*arrays, cu_seqlens, window)
        rounding = 0 if dtype == np.float32 else 2.0**-8
        # A score of some hundreds is off by its own rounding, and so is the logarithm of its weight.
        np.testing.assert_allclose(got, expected, rtol=rounding, atol=4e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 33])
def test_same_bytes_from_each_isa_and_number_of_threads(window, dtype, isa, threads):
    for lengths, dim, value_dim in [([5, 0, 128, 1, 50], 18, 33), ([30] * 3, 64, 64)]:
        arrays = drawn(sum(lengths), dim, value_dim, dtype)
        expected = run(*arrays, ends(lengths), window=window, isa="scalar")
        got = run(*arrays, ends(lengths), window=window, isa=isa, threads=threads)
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_have_the_same_bytes(dtype, isa):
    word = np.random.default_rng(5).integers(0, 2**32, (3, 40, 2, 18), dtype=np.uint64).astype(np.uint32)
    arrays = word.view(np.float32) if dtype == np.float32 else (word >> 16).astype(np.uint16)
    arrays[:, :20] = drawn(20, 18, 18, dtype, (2, 2))
    expected = run(*arrays, ends([30, 10]), isa="scalar")
    assert run(*arrays, ends([30, 10]), isa=isa).tobytes() == expected.tobytes()
    assert np.isfinite(widen(expected[:18])).all()


def test_packing_and_grouping_do_not_show(isa):
    lengths = [13, 70, 1, 6]
    query, key, value = drawn(90, 34, 48, np.float32, (4, 2))
    packed = run(query, key, value, ends(lengths), isa=isa, threads=2)
    for first, length in zip(ends(lengths), lengths, strict=False):
        part = slice(first, first + length)
        assert run(query[part], key[part], value[part], ends([length]), isa=isa).tobytes() == packed[part].tobytes()
    repeated = run(query, key.repeat(2, axis=1), value.repeat(2, axis=1), ends(lengths), isa=isa)
    assert repeated.tobytes() == packed.tobytes()
    assert run(query, key, value, ends(lengths), window=70, isa=isa).tobytes() == packed.tobytes()


def test_later_tokens_do_not_show(isa):
    query, key, value = drawn(60, 32, 32, np.float32)
    whole = run(query, key, value, ends([60]), isa=isa)
    for length in (1, 6, 7, 59):
        alone = run(query[:length], key[:length], value[:length], ends([length]), isa=isa)
        assert alone.tobytes() == whole[:length].tobytes()


def test_heads_may_be_columns_of_a_merged_product(isa):
    merged = draw(40, 8 * 24, np.float32).reshape(40, 8, 24)
    query, key, value = np.split(merged, [4, 6], axis=1)
    expected = run(*(np.ascontiguousarray(x) for x in (query, key, value)), ends([40]), isa=isa)
    out = np.full((40, 200), np.nan, np.float32)
    _C.causal_attention(query, key, value, ends([40]), out[:, 4:100].reshape(40, 4, 24), SCALE, isa=isa)
    np.testing.assert_array_equal(out[:, 4:100].reshape(40, 4, 24), expected)
    assert np.isnan(out[:, :4]).all() and np.isnan(out[:, 100:]).all()


def test_equal_scores_give_the_mean_and_nan_is_seen(isa):
    for dtype in DTYPES:
        zeros = np.zeros((20, 1, 16), dtype)
        value = np.arange(20, dtype=np.float32).repeat(16).reshape(20, 1, 16)
        means = run(zeros, zeros, value if dtype == np.float32 else to_bfloat16(value), ends([20]), isa=isa)
        np.testing.assert_allclose(widen(means)[:, 0, 3], np.arange(20) / 2, rtol=2.0**-8)
    key = np.zeros((20, 1, 16), np.float32)
    key[12, 0, 5] = np.nan
    got = np.isnan(run(np.ones((20, 1, 16), np.float32), key, value, ends([20]), isa=isa)).all(axis=(1, 2))
    assert got.tolist() == [t >= 12 for t in range(20)]


def test_no_documents(isa):
    nothing = np.zeros((0, 2, 8), np.float32)
    assert run(nothing, nothing, nothing, ends([]), isa=isa).shape == (0, 2, 8)
    assert run(nothing, nothing, nothing, ends([0, 0]), isa=isa).shape == (0, 2, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.ones((4, 4, 6))}, "query: expected float32, or uint16 holding bfloat16, got float64"),
        ({"query": np.ones((4, 24), np.float32)}, "query: expected 3 dimensions"),
        ({"query": np.ones((4, 3, 6), np.float32)}, "query: expected a multiple of the heads of key"),
        ({"key": np.ones((4, 2, 6), np.uint16)}, "key: expected the dtype of query, got uint16"),
        ({"key": np.ones((5, 2, 6), np.float32)}, "key: expected as many tokens as query"),
        ({"key": np.ones((4, 2, 5), np.float32)}, "key: expected heads as wide as those of query"),
        ({"value": np.ones((4, 1, 6), np.float32)}, "value: expected the heads of key"),
        ({"value": np.ones((2, 4, 6), np.float32).transpose(1, 0, 2)}, "value: expected a contiguous last dimension"),
        ({"out": np.ones((4, 4, 5), np.float32)}, r"out: expected shape \[4, 4, 6\]"),
        ({"cu_seqlens": np.array([0, 3])}, "cu_seqlens: ends at 3, but there are 4 tokens"),
        ({"scale": 0.0}, "scale: expected a number above 0, got 0"),
        ({"window": 0}, "window: expected at least 1 token, got 0"),
        ({"threads": 0}, "threads: expected 1 to 1024, got 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "query": np.ones((4, 4, 6), np.float32),
        "key": np.ones((4, 2, 6), np.float32),
        "value": np.ones((4, 2, 6), np.float32),
        "cu_seqlens": np.array([0, 4]),
        "out": np.ones((4, 4, 6), np.float32),
        "scale": 1.0,
    } | change
    with pytest.raises(ValueError, match=message):
        _C.causal_attention(**arguments)
