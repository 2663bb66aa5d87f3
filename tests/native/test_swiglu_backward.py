"""_C.swiglu_backward against float64 autograd, and equal to the bit among instruction sets and threads."""

import numpy as np
import pytest
import torch
from test_swiglu_impact import draw, ends, impact_reference, to_bfloat16, widen

from nagfast import _C

LENGTHS = [[], [0, 0, 3, 0], [128], [5, 0, 129, 1]]
WIDTHS = [1, 7, 65, 600]
ACTIVATIONS = {
    "silu": torch.nn.functional.silu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def by_autograd(gate_up, d_act, activation):
    """Gradients of gate and up side by side, and a * d, in float64."""
    leaf = torch.from_numpy(widen(gate_up).astype(np.float64)).requires_grad_()
    gate, up = leaf.chunk(2, dim=1)
    a = ACTIVATIONS[activation](gate) * up
    d = torch.from_numpy(widen(d_act).astype(np.float64))
    (grad,) = torch.autograd.grad(a, leaf, d)
    return grad.numpy(), (a.detach() * d).numpy()


def run(gate_up, d_act, cu_seqlens, **options):
    gate_up = gate_up.copy()
    impact = np.full((len(cu_seqlens) - 1, d_act.shape[1]), np.nan, np.float32)
    _C.swiglu_backward(gate_up, d_act, cu_seqlens, impact, **options)
    return gate_up, impact


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_autograd(lengths, reduction, dtype, activation, isa):
    cu_seqlens = ends(lengths)
    for width in WIDTHS[: 3 if isa == "scalar" else None]:
        gate_up = draw(cu_seqlens[-1], 2 * width, dtype, width)
        d_act = draw(cu_seqlens[-1], width, dtype, width + 1)
        grad, impact = run(gate_up, d_act, cu_seqlens, reduction=reduction, activation=activation, isa=isa)
        expected, product = by_autograd(gate_up, d_act, activation)
        np.testing.assert_allclose(widen(grad), expected, rtol=2e-6 if dtype == np.float32 else 2.0**-8, atol=2e-6)
        wanted = impact_reference(product.astype(np.float32), cu_seqlens, reduction)
        np.testing.assert_allclose(impact, wanted, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
def test_same_bytes_from_each_isa_and_number_of_threads(reduction, dtype, activation, isa, threads):
    for lengths, width in [([5, 0, 128, 1, 130], 333), ([300], 130), ([1] * 30, 65)]:
        cu_seqlens = ends(lengths)
        gate_up, d_act = draw(cu_seqlens[-1], 2 * width, dtype, 3), draw(cu_seqlens[-1], width, dtype, 4)
        options = {"reduction": reduction, "activation": activation}
        expected = run(gate_up, d_act, cu_seqlens, isa="scalar", **options)
        got = run(gate_up, d_act, cu_seqlens, isa=isa, threads=threads, **options)
        assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_special_values_have_the_same_bytes(dtype, activation, isa):
    word = np.random.default_rng(5).integers(0, 2**32, (64, 3 * 333), dtype=np.uint64).astype(np.uint32)
    every = word.view(np.float32) if dtype == np.float32 else (word >> 16).astype(np.uint16)
    gate_up, d_act = every[:, :666], every[:, 666:]
    expected = run(gate_up, d_act, ends([64]), activation=activation, isa="scalar")
    got = run(gate_up, d_act, ends([64]), activation=activation, isa=isa)
    assert [a.tobytes() for a in got] == [a.tobytes() for a in expected]


def test_packing_does_not_show(isa):
    gate_up, d_act = draw(430, 2 * 100, np.float32), draw(430, 100, np.float32, 1)
    lengths = [130, 257, 13, 30]
    grad, impact = run(gate_up, d_act, ends(lengths), isa=isa)
    for d, (first, length) in enumerate(zip(ends(lengths), lengths, strict=False)):
        part = slice(first, first + length)
        alone, alone_impact = run(gate_up[part], d_act[part], ends([length]), isa=isa)
        assert alone.tobytes() == grad[part].tobytes()
        assert alone_impact.tobytes() == impact[d : d + 1].tobytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slope_at_the_limits(activation, isa):
    gate = np.array([0, -0.0, np.inf, -np.inf, 3e38, -3e38, 100, -100, 20, -20], np.float32)
    ones = np.ones((1, len(gate)), np.float32)
    grad, _ = run(np.concatenate([gate[None], ones], axis=1), ones, ends([1]), activation=activation, isa=isa)
    slope, value = np.split(grad[0], 2)
    np.testing.assert_allclose(slope, [0.5, 0.5, 1, 0, 1, 0, 1, 0, 1, 0], atol=1e-7)
    np.testing.assert_allclose(value, [0, 0, np.inf, 0, 3e38, 0, 100, 0, 20, 0], atol=1e-7)


def test_nan_reaches_gradients_and_impact(isa):
    for dtype in (np.float32, np.uint16):
        gate_up, d_act = np.ones((2, 40), np.float32), np.ones((2, 20), np.float32)
        gate_up[0, 3] = gate_up[1, 25] = d_act[1, 7] = np.nan
        if dtype == np.uint16:
            gate_up, d_act = to_bfloat16(gate_up), to_bfloat16(d_act)
        grad, impact = run(gate_up, d_act, ends([2]), isa=isa)
        found = np.argwhere(np.isnan(widen(grad))).tolist()
        assert found == [[0, 3], [0, 23], [1, 5], [1, 7], [1, 27]]
        assert np.flatnonzero(np.isnan(impact)).tolist() == [3, 5, 7]


def test_rows_may_be_strided(isa):
    wide, d_wide = draw(300, 500, np.float32), draw(150, 333, np.float32, 2)
    before, view, d_view = wide.copy(), wide[::2, 10:210], d_wide[:, 5:105]
    expected = run(np.ascontiguousarray(view), np.ascontiguousarray(d_view), ends([100, 50]), isa=isa)
    impact = np.full((2, 100), np.nan, np.float32)
    _C.swiglu_backward(view, d_view, ends([100, 50]), impact, isa=isa)
    np.testing.assert_array_equal(view, expected[0])
    np.testing.assert_array_equal(impact, expected[1])
    untouched = np.ones(wide.shape, bool)
    untouched[::2, 10:210] = False
    np.testing.assert_array_equal(wide[untouched], before[untouched])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate_up": np.ones((4, 6))}, "gate_up: expected float32, or uint16 holding bfloat16, got float64"),
        ({"gate_up": np.ones((4, 5), np.float32)}, "gate_up: expected an even number of columns"),
        ({"d_act": np.ones((4, 3), np.uint16)}, "d_act: expected float32, as gate_up, got uint16"),
        ({"gate_up": np.ones((4, 6), np.uint16)}, "d_act: expected uint16 holding bfloat16, as gate_up"),
        ({"d_act": np.ones((4, 2), np.float32)}, r"d_act: expected shape \[4, 3\], got float32 \[4, 2\]"),
        ({"d_act": np.ones((3, 4), np.float32).T}, "d_act: expected a contiguous last dimension"),
        ({"cu_seqlens": np.array([0, 3])}, "cu_seqlens: ends at 3, but there are 4 tokens"),
        ({"impact": np.ones((2, 3), np.float32)}, r"impact: expected shape \[1, 3\], got float32 \[2, 3\]"),
        ({"activation": "relu"}, "activation: expected 'silu' or 'gelu_tanh', got 'relu'"),
        ({"reduction": "max"}, "reduction: expected 'mean_abs' or 'l2', got 'max'"),
        ({"threads": 0}, "threads: expected 1 to 1024, got 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "gate_up": np.ones((4, 6), np.float32),
        "d_act": np.ones((4, 3), np.float32),
        "cu_seqlens": np.array([0, 4]),
        "impact": np.zeros((1, 3), np.float32),
    } | change
    with pytest.raises(ValueError, match=message):
        _C.swiglu_backward(**arguments)


def test_a_read_only_gate_is_refused():
    gate_up = np.ones((4, 6), np.float32)
    gate_up.flags.writeable = False
    with pytest.raises(ValueError, match="gate_up: expected a writeable array"):
        _C.swiglu_backward(gate_up, np.ones((4, 3), np.float32), ends([4]), np.zeros((1, 3), np.float32))
