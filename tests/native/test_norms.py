"""_C.add_rms_norm and _C.norm_rotary against float64, and equal to the bit among instruction sets and threads."""

import numpy as np
import pytest
from test_swiglu_impact import draw, to_bfloat16, widen

from nagfast import _C

DTYPES = [np.float32, np.uint16]
WIDTHS = [1, 7, 64, 65, 200, 1024]
EPS = 1e-6


def rounding(dtype):
    """Return the relative error that storing a result may add."""
    return 1e-6 if dtype == np.float32 else 2.0**-8


def norm64(x, weight):
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + EPS) * weight


def rotary64(x, cos, sin):
    low, high = np.split(x, 2, axis=-1)
    return x * cos[:, None] + np.concatenate([-high, low], axis=-1) * sin[:, None]


def narrow(x, dtype):
    return x if dtype == np.float32 else to_bfloat16(x)


def add_norm(x, residual, weight, **options):
    """Return the residual and the normed rows, the arguments left as they were."""
    residual = None if residual is None else residual.copy()
    out = np.full_like(x, 0x7FC0 if x.dtype == np.uint16 else np.nan)
    _C.add_rms_norm(x, residual, weight, EPS, out, **options)
    return residual, out


def turn(x, weight, cos, sin, **options):
    x = x.copy()
    _C.norm_rotary(x, weight, EPS, cos, sin, **options)
    return x


def angles(tokens, dim, seed=9):
    angle = np.random.default_rng(seed).uniform(0, 6, (tokens, dim)).astype(np.float32)
    return np.cos(angle), np.sin(angle)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("summed", [True, False])
def test_add_rms_norm_equals_float64(summed, width, dtype, isa):
    x, residual = draw(5, width, dtype, width), draw(5, width, dtype, width + 1)
    weight = np.random.default_rng(2).uniform(0.5, 2, width).astype(np.float32)
    total, out = add_norm(x, residual if summed else None, weight, isa=isa)
    if summed:
        np.testing.assert_array_equal(total, narrow(widen(x) + widen(residual), dtype))
    expected = norm64(widen(total if summed else x).astype(np.float64), weight)
    np.testing.assert_allclose(widen(out), expected, rtol=rounding(dtype), atol=1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 14, 64, 128, 130, 256])
@pytest.mark.parametrize(("normed", "turned"), [(True, True), (True, False), (False, True)])
def test_norm_rotary_equals_float64(normed, turned, dim, dtype, isa):
    x = draw(6, 3 * dim, dtype, dim).reshape(6, 3, dim)
    weight = np.random.default_rng(3).uniform(0.5, 2, dim).astype(np.float32) if normed else None
    cos, sin = angles(6, dim) if turned else (None, None)
    expected = widen(x).astype(np.float64)
    if normed:
        expected = norm64(expected, weight)
    size = np.abs(expected).max()
    if turned:
        expected = rotary64(expected, cos, sin)
    got = turn(x, weight, cos, sin, isa=isa)
    np.testing.assert_allclose(widen(got), expected, rtol=rounding(dtype), atol=1e-6 * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [333, 1024])
def test_add_rms_norm_gives_the_same_bytes_from_each_isa_and_number_of_threads(width, dtype, isa, threads):
    x, residual, weight = draw(70, width, dtype, 1), draw(70, width, dtype, 2), draw(1, width, np.float32)[0]
    expected = add_norm(x, residual, weight, isa="scalar")
    got = add_norm(x, residual, weight, isa=isa, threads=threads)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [34, 128, 200])
def test_norm_rotary_gives_the_same_bytes_from_each_isa_and_number_of_threads(dim, dtype, isa, threads):
    x, weight = draw(70, 4 * dim, dtype, 1).reshape(70, 4, dim), draw(1, dim, np.float32)[0]
    expected = turn(x, weight, *angles(70, dim), isa="scalar")
    assert turn(x, weight, *angles(70, dim), isa=isa, threads=threads).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_have_the_same_bytes(dtype, isa):
    word = np.random.default_rng(5).integers(0, 2**32, (64, 2 * 334), dtype=np.uint64).astype(np.uint32)
    every = word.view(np.float32) if dtype == np.float32 else (word >> 16).astype(np.uint16)
    x, residual = (np.ascontiguousarray(half) for half in np.split(every, 2, axis=1))
    weight = draw(1, 334, np.float32)[0]
    expected = add_norm(x, residual, weight, isa="scalar")
    assert [a.tobytes() for a in add_norm(x, residual, weight, isa=isa)] == [a.tobytes() for a in expected]
    for scale in (weight[:2], None):
        heads, turned = every.reshape(64, 334, 2), angles(64, 2)
        assert turn(heads, scale, *turned, isa=isa).tobytes() == turn(heads, scale, *turned, isa="scalar").tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_does_not_depend_on_its_neighbours(dtype, isa):
    x, residual, weight = draw(40, 96, dtype, 1), draw(40, 96, dtype, 2), draw(1, 96, np.float32)[0]
    cos, sin = angles(40, 96)
    total, out = add_norm(x, residual, weight, isa=isa, threads=2)
    turned = turn(x[:, None], weight, cos, sin, isa=isa, threads=2)
    for part in (slice(0, 1), slice(17, 18), slice(39, 40)):
        alone = add_norm(x[part], residual[part], weight, isa=isa)
        assert [a.tobytes() for a in alone] == [total[part].tobytes(), out[part].tobytes()]
        alone = turn(x[part, None], weight, cos[part], sin[part], isa=isa)
        assert alone.tobytes() == turned[part].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_be_x(dtype, isa):
    x, residual, weight = draw(20, 130, dtype, 1), draw(20, 130, dtype, 2), draw(1, 130, np.float32)[0]
    for given in (residual, None):
        expected = add_norm(x, given, weight, isa=isa)
        both, total = x.copy(), None if given is None else given.copy()
        _C.add_rms_norm(both, total, weight, EPS, both, isa=isa)
        assert both.tobytes() == expected[1].tobytes()
        assert given is None or total.tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_be_strided(dtype, isa):
    wide, weight = draw(30, 500, dtype), draw(1, 64, np.float32)[0]
    before = wide.copy()
    expected = turn(np.ascontiguousarray(wide[:, 128:320]).reshape(30, 3, 64), weight, *angles(30, 64), isa=isa)
    _C.norm_rotary(wide[:, 128:320].reshape(30, 3, 64), weight, EPS, *angles(30, 64), isa=isa)
    np.testing.assert_array_equal(wide[:, 128:320].reshape(30, 3, 64), expected)
    np.testing.assert_array_equal(wide[:, 320:], before[:, 320:])
    x, residual, out = wide[:, :64], wide[:, 320:384], wide[:, 400:464]
    expected = add_norm(np.ascontiguousarray(x), np.ascontiguousarray(residual), weight, isa=isa)
    _C.add_rms_norm(x, residual, weight, EPS, out, isa=isa)
    np.testing.assert_array_equal(residual, expected[0])
    np.testing.assert_array_equal(out, expected[1])
    np.testing.assert_array_equal(wide[:, :128], before[:, :128])
    np.testing.assert_array_equal(wide[:, 384:400], before[:, 384:400])


def test_no_tokens_zeros_and_nan(isa):
    weight = np.ones(64, np.float32)
    for dtype in DTYPES:
        nothing = np.zeros((0, 64), dtype)
        assert add_norm(nothing, nothing, weight, isa=isa)[1].shape == (0, 64)
        assert turn(nothing[:, None], weight, *angles(0, 64), isa=isa).shape == (0, 1, 64)
        zeros = np.zeros((2, 64), dtype)
        assert not add_norm(zeros, zeros, weight, isa=isa)[1].any()
        assert not widen(turn(zeros[:, None], weight, *angles(2, 64), isa=isa)).any()
        x = np.ones((3, 64), np.float32)
        x[1, 5] = np.nan
        _, out = add_norm(narrow(x, dtype), None, weight, isa=isa)
        assert np.isnan(widen(out)).any(axis=1).tolist() == [False, True, False]
        got = turn(narrow(x, dtype)[:, None], weight, *angles(3, 64), isa=isa)
        assert np.isnan(widen(got)).any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((4, 6))}, "x: expected float32, or uint16 holding bfloat16, got float64"),
        ({"x": np.ones((4, 0), np.float32)}, "x: expected at least one column"),
        ({"residual": np.ones((4, 6), np.uint16)}, "residual: expected the dtype of x, got uint16"),
        ({"residual": np.ones((3, 6), np.float32)}, r"residual: expected shape \[4, 6\], got float32 \[3, 6\]"),
        ({"out": np.ones((6, 4), np.float32).T}, "out: expected a contiguous last dimension"),
        ({"out": np.broadcast_to(np.ones((1, 6), np.float32), (4, 6))}, "out: expected a writeable array"),
        ({"weight": np.ones(6)}, "weight: expected float32, got float64"),
        ({"weight": np.ones(5, np.float32)}, r"weight: expected shape \[6\], got float32 \[5\]"),
        ({"threads": 0}, "threads: expected 1 to 1024, got 0"),
        ({"isa": "mmx"}, "isa: 'mmx' is not available here"),
    ],
)
def test_wrong_arguments_of_add_rms_norm_are_named(change, message):
    arguments = {
        "x": np.ones((4, 6), np.float32),
        "residual": np.ones((4, 6), np.float32),
        "weight": np.ones(6, np.float32),
        "eps": EPS,
        "out": np.ones((4, 6), np.float32),
    } | change
    with pytest.raises(ValueError, match=message):
        _C.add_rms_norm(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((4, 2, 6))}, "x: expected float32, or uint16 holding bfloat16, got float64"),
        ({"x": np.ones((4, 12), np.float32)}, "x: expected 3 dimensions"),
        ({"x": np.ones((4, 2, 0), np.float32)}, "x: expected at least one element to a head"),
        ({"x": np.ones((4, 2, 5), np.float32)}, "x: expected an even last dimension"),
        ({"weight": np.ones(5, np.float32)}, r"weight: expected shape \[6\], got float32 \[5\]"),
        ({"cos": np.ones((3, 6), np.float32)}, r"cos: expected shape \[4, 6\], got float32 \[3, 6\]"),
        ({"sin": np.ones((4, 6), np.uint16)}, "sin: expected float32, got uint16"),
        ({"sin": None}, "cos, sin: one is None; give both or neither"),
        ({"threads": 2000}, "threads: expected 1 to 1024, got 2000"),
    ],
)
def test_wrong_arguments_of_norm_rotary_are_named(change, message):
    arguments = {
        "x": np.ones((4, 2, 6), np.float32),
        "weight": np.ones(6, np.float32),
        "eps": EPS,
        "cos": np.ones((4, 6), np.float32),
        "sin": np.ones((4, 6), np.float32),
    } | change
    with pytest.raises(ValueError, match=message):
        _C.norm_rotary(**arguments)
