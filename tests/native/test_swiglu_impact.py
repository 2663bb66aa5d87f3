"""_C.swiglu_impact and _C.segment_impact against float64 NumPy, and equal to the bit among themselves."""

import itertools

import numpy as np
import pytest

from nagfast import _C

LENGTHS = [[], [0], [1], [0, 0, 3, 0], [127], [128], [129], [300], [5, 0, 128, 1, 257, 40]]
WIDTHS = [1, 7, 63, 64, 65, 192, 1000]
RTOL = {np.float32: 1e-6, np.uint16: 1e-6}  # of impacts: both are summed in float32 from exact inputs


def to_bfloat16(x):
    """Round float32 to bfloat16 bits, to nearest even; NaN is canonical."""
    word = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def widen(x):
    return x if x.dtype == np.float32 else (x.astype(np.uint32) << 16).view(np.float32)


def draw(tokens, columns, dtype, seed=0):
    x = np.random.default_rng(seed).standard_normal((tokens, columns), dtype=np.float32) * 3
    return x if dtype == np.float32 else to_bfloat16(x)


def ends(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def impact_reference(x, cu_seqlens, reduction):
    x = widen(x).astype(np.float64)
    rows = []
    for first, last in itertools.pairwise(cu_seqlens):
        part = x[first:last]
        total = np.sqrt((part**2).sum(0)) if reduction == "l2" else np.abs(part).sum(0) / max(1, last - first)
        rows.append(total)
    return np.array(rows).reshape(len(cu_seqlens) - 1, x.shape[1])


def silu(x):
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def gelu_tanh(x):
    x = x.astype(np.float64)
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {"silu": silu, "gelu_tanh": gelu_tanh}


def run(gate_up, cu_seqlens, **options):
    gate_up = gate_up.copy()
    impact = np.full((len(cu_seqlens) - 1, gate_up.shape[1] // 2), np.nan, np.float32)
    _C.swiglu_impact(gate_up, cu_seqlens, impact, **options)
    return gate_up, impact


def segment(x, cu_seqlens, **options):
    impact = np.full((len(cu_seqlens) - 1, x.shape[1]), np.nan, np.float32)
    _C.segment_impact(x, cu_seqlens, impact, **options)
    return impact


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_the_reference(lengths, reduction, dtype, isa):
    cu_seqlens = ends(lengths)
    for width in WIDTHS:
        gate_up = draw(cu_seqlens[-1], 2 * width, dtype, width)
        gate, up = widen(gate_up[:, :width]), gate_up[:, width:]
        out, impact = run(gate_up, cu_seqlens, reduction=reduction, isa=isa)
        np.testing.assert_array_equal(out[:, width:], up)
        np.testing.assert_allclose(impact, impact_reference(up, cu_seqlens, reduction), rtol=RTOL[dtype])
        product = silu(gate) * widen(up)
        bound = 4e-7 if dtype == np.float32 else 2.0**-8
        np.testing.assert_allclose(widen(out[:, :width]), product, rtol=bound)
        up = np.ascontiguousarray(up)
        np.testing.assert_array_equal(segment(up, cu_seqlens, reduction=reduction, isa=isa), impact)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_same_bytes_from_each_isa_and_number_of_threads(activation, reduction, dtype, isa, threads):
    for lengths, width in [([5, 0, 128, 1, 257, 40], 777), ([700], 130), ([1] * 50, 65)]:
        cu_seqlens = ends(lengths)
        gate_up = draw(cu_seqlens[-1], 2 * width, dtype, 3)
        options = {"activation": activation, "reduction": reduction}
        expected = run(gate_up, cu_seqlens, isa="scalar", **options)
        got = run(gate_up, cu_seqlens, isa=isa, threads=threads, **options)
        assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]


def test_packing_does_not_show(isa):
    gate_up = draw(700, 2 * 100, np.float32)
    lengths = [130, 257, 13, 300]
    out, impact = run(gate_up, ends(lengths), isa=isa)
    for d, (first, length) in enumerate(zip(ends(lengths), lengths, strict=False)):
        alone, alone_impact = run(gate_up[first : first + length], ends([length]), isa=isa)
        assert alone.tobytes() == out[first : first + length].tobytes()
        assert alone_impact.tobytes() == impact[d : d + 1].tobytes()


def test_rows_may_be_strided(isa):
    wide = draw(300, 500, np.float32)
    before = wide.copy()
    view = wide[::2, 10:210]
    expected = run(np.ascontiguousarray(view), ends([100, 50]), isa=isa)
    impact = np.full((2, 100), np.nan, np.float32)
    _C.swiglu_impact(view, ends([100, 50]), impact, isa=isa)
    np.testing.assert_array_equal(view, expected[0])
    np.testing.assert_array_equal(impact, expected[1])
    untouched = np.ones(wide.shape, bool)
    untouched[::2, 10:110] = False
    np.testing.assert_array_equal(wide[untouched], before[untouched])


def gate_only(gate, isa, activation="silu"):
    """Return the activation as computed: the up projection is 1."""
    gate_up = np.concatenate([gate, np.ones_like(gate)])[None]
    return run(gate_up, ends([1]), isa=isa, activation=activation)[0][0, : len(gate)]


def test_silu_is_accurate(isa):
    gate = np.linspace(-87, 87, 400_001, dtype=np.float32)
    gate = np.concatenate([gate, np.geomspace(1e-30, 87, 50_000, dtype=np.float32)])
    gate = gate[gate != 0]
    error = np.abs(gate_only(gate, isa) / silu(gate) - 1)
    assert error.max() < 3e-7


def test_gelu_tanh_is_accurate(isa):
    gate = np.linspace(-8, 12, 400_001, dtype=np.float32)
    error = np.abs(gate_only(gate, isa, "gelu_tanh") - gelu_tanh(gate))
    assert (error <= 3e-7 * np.maximum(np.abs(gate), 1e-3)).all()
    limits = np.array([0.0, np.inf, -np.inf, 3e38, -3e38, 100, -100], np.float32)
    np.testing.assert_allclose(gate_only(limits, isa, "gelu_tanh"), [0, np.inf, 0, 3e38, 0, 100, 0], atol=1e-30)
    assert np.isnan(gate_only(np.array([np.nan], np.float32), isa, "gelu_tanh")).all()


def test_silu_at_the_limits(isa):
    gate = np.array([0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 100, -100, 89, -89, np.nan, -88.5], np.float32)
    expected = np.array([0.0, -0.0, np.inf, -0.0, 3e38, -0.0, 100, -0.0, 89, -0.0, np.nan], np.float32)
    got = gate_only(gate, isa)
    np.testing.assert_array_equal(got[:-1], expected)
    np.testing.assert_array_equal(np.signbit(got[:-2]), np.signbit(expected[:-1]))
    assert abs(got[-1]) < 1e-35


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_special_values_have_the_same_bytes(dtype, isa):
    word = np.random.default_rng(5).integers(0, 2**32, (64, 2 * 333), dtype=np.uint64).astype(np.uint32)
    gate_up = word.view(np.float32) if dtype == np.float32 else (word >> 16).astype(np.uint16)
    for reduction, activation in itertools.product(["mean_abs", "l2"], ACTIVATIONS):
        options = {"reduction": reduction, "activation": activation}
        expected = run(gate_up, ends([64]), isa="scalar", **options)
        got = run(gate_up, ends([64]), isa=isa, **options)
        assert [a[:, :333].tobytes() for a in got] == [a[:, :333].tobytes() for a in expected]


def test_nan_reaches_the_product_and_the_impact(isa):
    for dtype in (np.float32, np.uint16):
        x = np.ones((2, 40), np.float32)
        x[0, 3] = x[1, 25] = np.nan
        out, impact = run(x if dtype == np.float32 else to_bfloat16(x), ends([2]), isa=isa)
        np.testing.assert_array_equal(np.argwhere(np.isnan(widen(out[:, :20]))), [[0, 3], [1, 5]])
        np.testing.assert_array_equal(np.argwhere(np.isnan(impact)), [[0, 5]])


def test_bfloat16_rounds_to_nearest_even(isa):
    gate_up = draw(50, 2 * 200, np.uint16)
    single = widen(gate_up)
    expected = run(single, ends([50]), isa=isa)[0][:, :200]
    np.testing.assert_array_equal(run(gate_up, ends([50]), isa=isa)[0][:, :200], to_bfloat16(expected))


def test_segment_impact_does_not_write(isa):
    x = draw(10, 30, np.float32)
    x.flags.writeable = False
    segment(x, ends([4, 6]), isa=isa)


GATE_UP = np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("gate_up", "cu_seqlens", "impact_shape", "message"),
    [
        (np.ones((4, 6)), [0, 4], (1, 3), "gate_up: expected float32, or uint16 holding bfloat16, got float64"),
        (np.ones((4, 5), np.float32), [0, 4], (1, 3), "gate_up: expected an even number of columns"),
        (np.ones((6, 4), np.float32).T, [0, 4], (1, 3), "gate_up: expected a contiguous last dimension"),
        (np.ones(6, np.float32), [0, 4], (1, 3), "gate_up: expected 2 dimensions"),
        (GATE_UP, [], (0, 3), "cu_seqlens: expected at least one entry"),
        (GATE_UP, [1, 4], (1, 3), "cu_seqlens: expected 0 first, got 1"),
        (GATE_UP, [0, 3, 2, 4], (3, 3), "cu_seqlens: falls from 3 to 2 at entry 2"),
        (GATE_UP, [0, 3], (1, 3), "cu_seqlens: ends at 3, but there are 4 tokens"),
        (GATE_UP, [0, 4], (2, 3), r"impact: expected shape \[1, 3\], got float32 \[2, 3\]"),
    ],
)
def test_wrong_arguments_are_named(gate_up, cu_seqlens, impact_shape, message):
    with pytest.raises(ValueError, match=message):
        _C.swiglu_impact(
            gate_up.copy() if gate_up.flags.c_contiguous else gate_up,
            np.array(cu_seqlens, np.int64),
            np.zeros(impact_shape, np.float32),
        )


def test_other_wrong_arguments_are_named():
    impact = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="cu_seqlens: expected int64, got int32"):
        _C.swiglu_impact(GATE_UP.copy(), np.array([0, 4], np.int32), impact)
    with pytest.raises(ValueError, match="reduction: expected 'mean_abs' or 'l2', got 'max'"):
        _C.swiglu_impact(GATE_UP.copy(), ends([4]), impact, reduction="max")
    with pytest.raises(ValueError, match="activation: expected 'silu' or 'gelu_tanh', got 'gelu'"):
        _C.swiglu_impact(GATE_UP.copy(), ends([4]), impact, activation="gelu")
    with pytest.raises(ValueError, match="impact: expected float32, got float64"):
        _C.swiglu_impact(GATE_UP.copy(), ends([4]), impact.astype(np.float64))
    with pytest.raises(ValueError, match="gate_up: expected a writeable array"):
        _C.swiglu_impact(_read_only(), ends([4]), impact)
    with pytest.raises(ValueError, match="gate_up: expected rows that do not overlap"):
        overlapping = np.lib.stride_tricks.as_strided(np.ones(50, np.float32), (4, 6), (8, 4))
        _C.swiglu_impact(overlapping, ends([4]), impact)
    with pytest.raises(ValueError, match="x: expected float32"):
        _C.segment_impact(np.ones((4, 3), np.float16), ends([4]), impact)
    with pytest.raises(ValueError, match="threads: expected 1 to 1024, got -1"):
        _C.segment_impact(np.ones((4, 3), np.float32), ends([4]), impact, threads=-1)


def _read_only():
    x = GATE_UP.copy()
    x.flags.writeable = False
    return x
