"""_C.topk against a stable NumPy sort."""

import numpy as np
import pytest

from nagfast import _C

SHAPES = [(1, 1, 1), (3, 7, 1), (3, 7, 7), (5, 63, 20), (5, 64, 64), (4, 65, 2), (3, 128, 32), (3, 129, 32)]
SHAPES += [(6, 192, 20), (9, 1000, 20), (4, 1000, 1000), (5, 6144, 20), (3, 5000, 300), (2, 65535, 33), (0, 50, 5)]


def reference(values, k):
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def run(values, k, isa="auto", threads=1, dtype=np.uint16):
    out = np.full((len(values), k), np.iinfo(dtype).max, dtype=dtype)
    _C.topk(values, k, out, threads=threads, isa=isa)
    return out


def kinds(rows, columns):
    """Name and draw rows of different make."""
    rng = np.random.default_rng(rows * 1000 + columns)
    normal = rng.standard_normal((rows, columns)).astype(np.float32)
    yield "positive", np.abs(normal)
    yield "signed", normal
    yield "ascending", np.sort(normal, axis=1)
    yield "descending", -np.sort(-normal, axis=1)
    yield "few values", rng.integers(0, 4, (rows, columns)).astype(np.float32)
    yield "zeros", np.zeros((rows, columns), np.float32)
    yield "signed zeros", np.where(rng.integers(0, 2, (rows, columns)) > 0, np.float32(0.0), np.float32(-0.0))
    yield "infinities", np.where(normal > 1, np.float32(np.inf), np.where(normal < -1, np.float32(-np.inf), normal))
    yield "all minus infinity", np.full((rows, columns), -np.inf, np.float32)
    yield "denormal", normal * np.float32(1e-42)
    one_group = np.abs(normal)
    one_group[:, ::64] += 10  # the worst case of interleaved groups: all large values in one
    yield "one group", one_group


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_stable_sort(shape, isa):
    rows, columns, k = shape
    for name, values in kinds(rows, columns):
        np.testing.assert_array_equal(run(values, k, isa), reference(values, k), err_msg=name)


def test_threads_and_width_do_not_show(isa, threads):
    values = np.abs(np.random.default_rng(0).standard_normal((37, 777), dtype=np.float32))
    expected = reference(values, 20)
    np.testing.assert_array_equal(run(values, 20, isa, threads), expected)
    np.testing.assert_array_equal(run(values, 20, isa, threads, np.uint32), expected)


def test_strided_rows_in_and_out(isa):
    wide = np.random.default_rng(1).standard_normal((11, 3, 500), dtype=np.float32)
    values = wide[::2, 1]
    out = np.full((6, 40), 0xFFFF, np.uint16)
    _C.topk(values, 20, out[:, :20], isa=isa)
    np.testing.assert_array_equal(out[:, :20], reference(values, 20))
    assert (out[:, 20:] == 0xFFFF).all()


def test_more_than_65535_values_in_uint32(isa):
    values = np.random.default_rng(2).standard_normal((2, 70001), dtype=np.float32)
    values[1, 70000] = 100
    np.testing.assert_array_equal(run(values, 20, isa, dtype=np.uint32), reference(values, 20))


@pytest.mark.parametrize("columns", [5, 127, 1000, 6151])
def test_nan_names_the_lowest_row(columns, isa, threads):
    for position in {0, columns // 2, columns - 1}:
        values = np.ones((40, columns), np.float32)
        values[[17, 18, 39], position] = np.nan
        with pytest.raises(ValueError, match="values: row 17 holds a NaN"):
            run(values, 3, isa, threads)


@pytest.mark.parametrize(
    ("values", "k", "out", "message"),
    [
        (np.ones((2, 5)), 1, np.zeros((2, 1), np.uint16), r"values: expected float32, got float64 \[2, 5\]"),
        (np.ones(5, np.float32), 1, np.zeros((2, 1), np.uint16), "values: expected 2 dimensions"),
        (np.ones((5, 4), np.float32).T, 1, np.zeros((4, 1), np.uint16), "values: expected a contiguous last"),
        (np.ones((2, 5), np.float32), 0, np.zeros((2, 0), np.uint16), "k: expected 1 to 5 .* got 0"),
        (np.ones((2, 5), np.float32), 6, np.zeros((2, 6), np.uint16), "k: expected 1 to 5 .* got 6"),
        (np.ones((2, 5), np.float32), 2, np.zeros((2, 3), np.uint16), r"out: expected shape \[2, 2\]"),
        (np.ones((2, 5), np.float32), 2, np.zeros((2, 2), np.int64), "out: expected uint16 or uint32, got int64"),
        (np.ones((1, 65536), np.float32), 2, np.zeros((1, 2), np.uint16), "out: expected uint32 for rows of more"),
    ],
)
def test_wrong_arguments_are_named(values, k, out, message):
    with pytest.raises(ValueError, match=message):
        _C.topk(values, k, out)


def test_read_only_output_threads_and_isa_are_refused():
    values = np.ones((2, 5), np.float32)
    out = np.zeros((2, 1), np.uint16)
    with pytest.raises(ValueError, match="threads: expected 1 to 1024, got 0"):
        _C.topk(values, 1, out, threads=0)
    with pytest.raises(ValueError, match="isa: 'sse9'"):
        _C.topk(values, 1, out, isa="sse9")
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        _C.topk(values, 1, out)
