"""One dispatch point: every backend can be forced, and gives the same answer."""

import itertools

import numpy as np
import pytest
import torch

from nagfast import ops, reference
from nagfast.errors import ArgumentError, MissingDependencyError, NagfastError
from nagfast.ops import dispatch, products

BACKENDS = ["reference", "cpp"]


def test_auto_takes_the_extension():
    assert ops.resolve("auto") == "cpp"


def test_an_unknown_backend_is_refused():
    with pytest.raises(ArgumentError, match="backend: got 'gpu'"):
        ops.resolve("gpu")


def test_without_the_extension_auto_takes_the_reference(monkeypatch):
    monkeypatch.setattr(dispatch, "native", lambda: None)
    assert ops.resolve("auto") == "reference"
    with pytest.raises(NagfastError, match="not built"):
        ops.resolve("cpp")


@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_segment_impact(backend, reduction):
    x = torch.randn(300, 37)
    cu = np.array([0, 1, 1, 129, 300])
    got = ops.segment_impact(x, cu, reduction=reduction, backend=backend)
    want = np.stack([reference.impact(x[a:b], reduction).numpy() for a, b in itertools.pairwise(cu)])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    assert (got[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_swiglu_impact(backend, activation, dtype):
    if backend == "cpp" and activation == "gelu":
        with pytest.raises(ArgumentError, match="cpp does not know 'gelu"):
            ops.swiglu_impact(torch.ones(1, 2), np.array([0, 1]), activation=activation, backend=backend)
        return
    gate_up = torch.randn(40, 2 * 33).to(dtype)
    gate, up = gate_up[:, :33].clone(), gate_up[:, 33:].clone()
    impact = ops.swiglu_impact(gate_up, np.array([0, 7, 40]), activation=activation, backend=backend)
    np.testing.assert_allclose(impact[1], up[7:].float().abs().mean(0).numpy(), rtol=1e-5)
    want = reference.swiglu(gate.float(), up.float(), activation)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(gate_up[:, :33].float(), want, rtol=tolerance, atol=tolerance)
    assert torch.equal(gate_up[:, 33:], up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_swiglu_backward(backend, activation, dtype):
    if backend == "cpp" and activation == "gelu":
        with pytest.raises(ArgumentError, match="cpp does not know 'gelu'"):
            ops.swiglu_backward(torch.ones(1, 2), torch.ones(1, 1), np.array([0, 1]), activation="gelu", backend="cpp")
        return
    gate_up, d_act, cu = torch.randn(40, 2 * 33).to(dtype), torch.randn(40, 33).to(dtype), np.array([0, 7, 7, 40])
    gate, up = gate_up.double().chunk(2, dim=1)
    *wanted, product = reference.swiglu_backward(gate, up, d_act.double(), activation)
    impact = ops.swiglu_backward(gate_up, d_act, cu, activation=activation, reduction="l2", backend=backend)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(gate_up.double(), torch.cat(wanted, dim=1), rtol=tolerance, atol=tolerance)
    parts = [reference.impact(product[a:b], "l2") for a, b in itertools.pairwise(cu)]
    torch.testing.assert_close(impact.double(), torch.stack(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_softmax_gradient(backend, dtype):
    logits, labels = (torch.randn(17, 301) * 9).to(dtype), torch.randint(0, 301, (17,))
    logits[3] += 1000
    leaf = logits.double().requires_grad_()
    torch.nn.functional.cross_entropy(leaf, labels, reduction="sum").backward()
    found = ops.softmax_gradient(logits, labels, backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), leaf.grad, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-3)
    with pytest.raises(ArgumentError, match="backend: got 'cpp'; softmax_gradient has"):
        ops.softmax_gradient(logits, labels, backend="cpp")


def test_swiglu_backward_names_what_does_not_fit(monkeypatch):
    gate_up, d_act, cu = torch.ones(4, 6), torch.ones(4, 3), np.array([0, 4])
    with pytest.raises(ArgumentError, match=r"d_act: got torch.float32 \[4, 2\]"):
        ops.swiglu_backward(gate_up, d_act[:, :2], cu)
    with pytest.raises(ArgumentError, match="activation: got 'relu'"):
        ops.swiglu_backward(gate_up, d_act, cu, activation="relu")
    with pytest.raises(ArgumentError, match="backend: got 'gpu'"):
        ops.swiglu_backward(gate_up, d_act, cu, backend="gpu")
    with pytest.raises(ArgumentError, match=r"backend: triton does not know k of 513 \(above 512\)"):
        ops.topk(torch.zeros(1, 600), 513, backend="triton")
    meta = torch.device("meta")
    with pytest.raises(ArgumentError, match="backend: cpp takes tensors on the CPU, these are on meta"):
        ops.resolve_for(meta, "cpp")
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert ops.resolve_for(meta) == "reference"
    with pytest.raises(MissingDependencyError, match="nagfast\\[triton\\]"):
        ops.resolve_for(meta, "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_topk_breaks_ties_by_index(backend):
    values = torch.tensor([[1.0, 3, 3, 0, 3], [0, 0, 0, 0, 0], [-1, -0.0, 0, -2, -torch.inf]])
    assert ops.topk(values, 3, backend=backend).tolist() == [[1, 2, 4], [0, 1, 2], [1, 2, 0]]
    assert ops.topk(values[:0], 3, backend=backend).shape == (0, 3)
    wide = torch.zeros(1, 65_536)
    wide[0, 65_535] = 1
    found = ops.topk(wide, 2, backend=backend)
    assert found.dtype == torch.uint32 and found.tolist() == [[65_535, 0]]
    with pytest.raises(ArgumentError, match="NaN"):
        ops.topk(torch.tensor([[torch.nan, 1]]), 1, backend=backend)
    with pytest.raises(ArgumentError, match="k: got 6"):
        ops.topk(values, 6, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_topk_writes_one_layer_of_many(backend):
    values = torch.randn(7, 40).abs()
    nags = torch.full((7, 3, 5), 9999, dtype=torch.uint16)
    ops.topk(values, 5, out=nags[:, 1], backend=backend)
    np.testing.assert_array_equal(nags[:, 1].numpy(), reference.topk(values.numpy(), 5))
    assert (nags[:, ::2].numpy() == 9999).all()
    with pytest.raises(ArgumentError, match=r"out: got torch.uint16 \[7, 4\]"):
        ops.topk(values, 5, out=nags[:, 1, :4], backend=backend)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint16, torch.uint32])
@pytest.mark.parametrize("backend", BACKENDS)
def test_topk_profile(backend, dtype):
    values = torch.randn(9, 50).abs()
    table = torch.randint(0, 60_000, (50, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    sums = torch.full((9, 3), 1 << 40)
    nags = torch.zeros((9, 2, 6), dtype=torch.uint16)
    ops.topk_profile(values, 6, table, sums, out=nags[:, 1], backend=backend)
    chosen = reference.topk(values.numpy(), 6)
    np.testing.assert_array_equal(nags[:, 1].numpy(), chosen)
    for p in range(3):
        expected = reference.integer_sums(chosen[:, None], table[None, :, p].numpy().astype(np.int64))
        np.testing.assert_array_equal(sums[:, p].numpy() - (1 << 40), expected)
    before = sums.clone()
    ops.topk_profile(values, 6, table, sums, backend=backend)
    assert torch.equal(sums - before, before - (1 << 40))
    with pytest.raises(ArgumentError, match="table: got"):
        ops.topk_profile(values, 6, table[:9], sums, backend=backend)
    with pytest.raises(ArgumentError, match="sums: got"):
        ops.topk_profile(values, 6, table, sums[:, :2], backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_count_and_score(backend):
    rng = np.random.default_rng(0)
    nags = np.stack([[rng.permutation(50)[:6] for _ in range(3)] for _ in range(20)]).astype(np.uint16)
    nags[4] = 0xFFFF
    counts, documents = ops.count(nags, 50, backend=backend)
    assert documents == 19 and (counts.sum(axis=1) == 19 * 6).all()
    table = np.stack([counts, counts // 2], axis=2).astype(np.uint16)
    sums = ops.score(nags, table, backend=backend)
    assert sums[4].tolist() == [0, 0]
    np.testing.assert_array_equal(sums[:, 0], reference.integer_sums(nags, counts))
    np.testing.assert_array_equal(sums, ops.score(nags, table, backend="reference"))


def test_wrong_shapes_are_named():
    with pytest.raises(ArgumentError, match="nags: got"):
        ops.score(np.zeros((2, 3), np.uint16), np.zeros((3, 5, 1), np.uint16))
    with pytest.raises(ArgumentError, match="cu_seqlens"):
        ops.segment_impact(torch.zeros(4, 3), np.array([0, 3]))
    with pytest.raises(ArgumentError, match="threads: got 0"):
        ops.topk(torch.zeros(1, 3), 1, backend="cpp", threads=0)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("dim", [2, 6, 16, 64, 130])
@pytest.mark.parametrize("tokens", [0, 1, 17, 129])
@pytest.mark.parametrize("normed", [False, True])
def test_norm_rotary(tokens, dim, heads, normed):
    wide = torch.randn(tokens, heads * dim + 5)
    x = wide[:, : heads * dim].unflatten(1, (heads, dim))
    weight = torch.randn(dim) if normed else None
    cos, sin = torch.randn(tokens, dim), torch.randn(tokens, dim)
    want = reference.norm_rotary(x.clone(), weight, 1e-6, cos, sin)
    beside = wide[:, heads * dim :].clone()
    once = wide.clone()
    for threads in (1, 3):
        again = once.clone()
        view = again[:, : heads * dim].unflatten(1, (heads, dim))
        ops.norm_rotary(view, weight, 1e-6, cos, sin, backend="cpp", threads=threads)
        torch.testing.assert_close(view, want, rtol=1e-5, atol=1e-5)
        assert torch.equal(again[:, heads * dim :], beside)
    ops.norm_rotary(x, weight, 1e-6, cos, sin, backend="reference")
    assert torch.equal(x, want)


def test_norm_rotary_names_what_does_not_fit():
    x = torch.zeros(3, 2, 4)
    with pytest.raises(ValueError, match="cos"):
        ops.norm_rotary(x, None, 0.0, torch.zeros(2, 4), torch.zeros(3, 4), backend="cpp")
    with pytest.raises(ValueError, match="even"):
        ops.norm_rotary(torch.zeros(3, 2, 5), None, 0.0, torch.zeros(3, 5), torch.zeros(3, 5), backend="cpp")
    with pytest.raises(ArgumentError, match="cos, sin"):
        ops.norm_rotary(x, None, 0.0, torch.zeros(3, 4), None)
    before = x.clone()
    ops.norm_rotary(x, None, 0.0, None, None)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_norm_rotary_with_and_without_angles(backend, dtype):
    x, weight = torch.randn(5, 3, 8).to(dtype), torch.randn(8).to(dtype)
    turned = torch.randn(2, 5, 8).to(dtype)
    for angles in ((None, None), tuple(turned)):
        found = x.clone()
        ops.norm_rotary(found, weight, 1e-6, *angles, backend=backend)
        expected = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6) * weight.double()
        if angles[0] is not None:
            half = torch.cat([-expected[..., 4:], expected[..., :4]], dim=-1)
            expected = expected * angles[0].double()[:, None] + half * angles[1].double()[:, None]
        tolerance = 1e-5 if dtype == torch.float32 else 2.0**-7
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_add_rms_norm(backend, added, dtype):
    x, weight = torch.randn(5, 48).to(dtype), torch.randn(48).to(dtype)
    residual = torch.randn(5, 48).to(dtype) if added else None
    base = x if residual is None else residual + x
    expected = base.double() * torch.rsqrt(base.double().square().mean(-1, keepdim=True) + 1e-6) * weight.double()
    out = torch.empty_like(x)
    for place in (None, out):
        stream = None if residual is None else residual.clone()
        found = ops.add_rms_norm(x, stream, weight, 1e-6, out=place, backend=backend)
        assert found.dtype == dtype and (place is None or found is out)
        assert stream is None or torch.equal(stream, base)
        tolerance = 1e-6 if dtype == torch.float32 else 2.0**-8
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert ops.add_rms_norm(x[:0], None, weight, 1e-6).shape == (0, 48)
    with pytest.raises(ArgumentError, match=r"residual: got torch.float64"):
        ops.add_rms_norm(x, x.double(), weight, 1e-6)
    with pytest.raises(ArgumentError, match=r"x: got \[5, 48\] with a weight of \[47\]"):
        ops.add_rms_norm(x, None, weight[:47], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_causal_attention(backend, window, dtype):
    query, key, value = (torch.randn(30, *shape).to(dtype) for shape in ((4, 8), (2, 8), (2, 6)))
    ends = np.array([0, 0, 7, 20, 30])
    options = {"scale": 0.3, "window": window, "backend": backend}
    found = ops.causal_attention(query, key, value, ends, **options)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2.0**-7
    for a, b in itertools.pairwise(ends):
        behind = torch.arange(b - a)[:, None] - torch.arange(b - a)
        seen = (behind >= 0) & (behind < (window or 30))
        q, k, v = (x[a:b].double().transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(2, dim=0) for x in (k, v))
        want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=0.3).transpose(0, 1)
        torch.testing.assert_close(found[a:b].double(), want, rtol=tolerance, atol=tolerance)
    heads_first = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query, key, value)]
    torch.testing.assert_close(ops.causal_attention(*heads_first, ends, **options), found, rtol=0, atol=0)
    with pytest.raises(ArgumentError, match=r"query, key, value: got \[30, 4, 8\], \[30, 3, 8\], \[30, 2, 6\]"):
        ops.causal_attention(query, torch.randn(30, 3, 8), value, ends, **options)


@pytest.mark.parametrize("backend", ["auto", "torch", "onednn"])
@pytest.mark.parametrize("biased", [False, True])
def test_product(biased, backend):
    wide, weight = torch.randn(30, 96), torch.randn(50, 64)
    bias = torch.randn(50) if biased else None
    transposed = weight.t().contiguous().t()
    for x, w in ((wide[:, :64], weight), (wide[:1, 32:], weight), (wide[:0, :64], weight), (wide[:, 32:], transposed)):
        want = x.double() @ w.double().t() + (0 if bias is None else bias.double())
        for out in (None, torch.empty(len(x), 50)):
            found = ops.product(x, w, bias, out=out, backend=backend)
            torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-5)


def test_product_takes_bfloat16_and_names_what_does_not_fit():
    x, weight = torch.randn(8, 32).bfloat16(), torch.randn(16, 32).bfloat16()
    want = (x.double() @ weight.double().t()).bfloat16()
    torch.testing.assert_close(ops.product(x, weight), want, rtol=2.0**-7, atol=2.0**-7)
    with pytest.raises(
        ArgumentError, match=r"onednn takes float32 on the CPU without a gradient, this is torch.bfloat16"
    ):
        ops.product(x, weight, backend="onednn")
    with pytest.raises(ArgumentError, match="backend: got 'cpp'; product has auto, torch and onednn"):
        ops.product(x, weight, backend="cpp")


def test_product_takes_onednn_where_mkl_leaves_avx512_idle(monkeypatch):
    x, weight = torch.randn(40, 64), torch.randn(50, 64)
    out = torch.empty(40, 50)
    for idle in (True, False):
        monkeypatch.setattr(products.env, "mkl_leaves_avx512_idle", lambda idle=idle: idle)
        assert (ops.product(x, weight, out=out) is out) != idle
        assert ops.product(x.clone().requires_grad_(), weight).grad_fn is not None
