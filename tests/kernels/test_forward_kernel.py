"""The kernels of the forward pass against the reference, and the same to the bit for any packing."""

import numpy as np
import pytest
import torch

from nagfast import ops, reference

LENGTHS = [[], [0], [1], [0, 3, 0], [127], [128], [129, 16, 15, 17], [260, 1], [2048]]
WIDTHS = [7, 1, 129, 64, 130, 128, 200, 33, 5]
# Of the largest; the interpreter cuts float32 to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}


def draw(shape, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * 3).to(dtype).to(device)


def ends(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def near(found, expected, dtype):
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.cpu().double(), expected.cpu().double(), rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_swiglu_impact(activation, dtype, device):
    for number, (lengths, width) in enumerate(zip(LENGTHS, WIDTHS, strict=True)):
        cu_seqlens, reduction = ends(lengths), ("mean_abs", "l2")[number % 3 % 2]
        gate_up = draw((cu_seqlens[-1], 2 * width), dtype, device, number)
        gate, up = gate_up.cpu().double().chunk(2, dim=1)
        options = {"activation": activation, "reduction": reduction, "backend": "triton"}
        impact = ops.swiglu_impact(gate_up, cu_seqlens, **options)
        assert impact.dtype == torch.float32 and impact.shape == (len(lengths), width)
        near(gate_up[:, :width], reference.swiglu(gate, up, activation), dtype)
        assert torch.equal(gate_up[:, width:].cpu().double(), up)
        wanted = ops.segment_impact(up.float(), cu_seqlens, reduction=reduction, backend="reference")
        near(impact, wanted, torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
def test_segment_impact(reduction, dtype, device):
    for number, (lengths, width) in enumerate(zip(LENGTHS, WIDTHS, strict=True)):
        wide = draw((sum(lengths), width + 9), dtype, device, number)
        for x in (wide[:, 4 : 4 + width], wide.t().contiguous().t()[:, :width]):  # columns apart are copied
            before = x.clone()
            found = ops.segment_impact(x, ends(lengths), reduction=reduction, backend="triton")
            wanted = ops.segment_impact(x.cpu().float(), ends(lengths), reduction=reduction, backend="reference")
            near(found, wanted, torch.float32)
            assert torch.equal(x, before)


def test_packing_does_not_show(device):
    lengths = [130, 257, 1, 30]
    gate_up = draw((418, 200), torch.float32, device)
    whole = gate_up.clone()
    impact = ops.swiglu_impact(whole, ends(lengths), backend="triton")
    for d, (first, length) in enumerate(zip(ends(lengths), lengths, strict=False)):
        alone = gate_up[first : first + length].clone()
        assert torch.equal(ops.swiglu_impact(alone, ends([length]), backend="triton"), impact[d : d + 1])
        assert torch.equal(alone, whole[first : first + length])


def test_rows_may_be_strided(device):
    wide, cu_seqlens = draw((40, 100), torch.float32, device), ends([17, 23])
    before, packed = wide.clone(), wide[:, 10:90].clone()
    expected = ops.swiglu_impact(packed, cu_seqlens, backend="triton")
    assert torch.equal(ops.swiglu_impact(wide[:, 10:90], cu_seqlens, backend="triton"), expected)
    assert torch.equal(wide[:, 10:90], packed)
    assert torch.equal(wide[:, :10], before[:, :10]) and torch.equal(wide[:, 90:], before[:, 90:])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 48, 129, 1024, 2560])
def test_add_rms_norm(width, dtype, device):
    for added, tokens in ((False, 1), (True, 3), (True, 0)):
        wide, weight = draw((tokens, width + 8), dtype, device), draw((width,), dtype, device, 1)
        stream = draw((tokens, width + 8), dtype, device, 2)
        x, residual = wide[:, 8:], stream[:, 8:] if added else None
        before = stream.clone()
        total = x.float() + residual.float() if added else x.float()
        found = ops.add_rms_norm(x, residual, weight, 1e-5, backend="triton")
        near(stream[:, 8:], total if added else before[:, 8:], dtype)
        assert torch.equal(stream[:, :8], before[:, :8])
        base = residual if added else x  # as rounded, which the interpreter does not do as a GPU does
        near(found, reference.rms_norm(base.double(), weight.double(), 1e-5), dtype)
        place = torch.zeros_like(stream)[:, 8:]
        again = (stream if added else wide).clone()[:, 8:]  # of the same strides: a sum's order may depend on them
        assert ops.add_rms_norm(again, None, weight, 1e-5, out=place, backend="triton") is place
        assert torch.equal(place, found)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rows_in_eight_bits(dtype, device):
    """Values that eight bits hold: the interpreter does not round as a GPU does, nor carries into the exponent."""
    codes = np.random.default_rng(0).integers(8, 127, (4, 292), dtype=np.uint8)
    codes |= np.random.default_rng(1).integers(0, 2, codes.shape, dtype=np.uint8) << 7
    codes[:, 3], codes[:, 5] = 126, 0  # the largest, and a zero
    codes[1] = 0
    factors = torch.tensor([[0.25], [1 / 448], [2.0**-20], [1.0]])
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    wide = torch.cat([torch.zeros(4, 8), expected.float() * factors], dim=1).to(dtype).to(device)
    out, scale = ops.quantize_rows(wide[:, 8:], backend="triton")
    assert out.dtype == torch.float8_e4m3fn
    np.testing.assert_array_equal(out.view(torch.uint8).cpu().numpy(), codes)
    torch.testing.assert_close(scale.cpu(), factors, rtol=1e-7, atol=0)
    for found, wanted in zip(reference.quantize_rows(wide[:, 8:]), (out, scale), strict=True):
        assert torch.equal(found.float(), wanted.float())
    assert ops.quantize_rows(wide[:0], backend="triton")[0].shape == (0, 300)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_norm_in_eight_bits_is_the_norm_and_then_eight_bits(dtype, device):
    x, weight, streams = draw((3, 200), dtype, device), draw((200,), dtype, device, 1), draw((3, 200), dtype, device, 2)
    for residual in (None, streams):
        apart = None if residual is None else residual.clone()
        both = ops.add_rms_norm_quantized(x, residual, weight, 1e-5, backend="triton")
        normed = ops.add_rms_norm(x, apart, weight, 1e-5, backend="triton")
        wanted = ops.quantize_rows(normed, backend="triton")
        assert torch.equal(both[0].view(torch.uint8), wanted[0].view(torch.uint8)) and torch.equal(both[1], wanted[1])
        assert residual is None or torch.equal(residual, apart)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "dim"), [(1, 2), (3, 64), (5, 96), (33, 6), (16, 128)])
def test_norm_rotary(heads, dim, dtype, device):
    angles = draw((2, 5, dim), dtype, device, 3) / 3
    for normed, turned in ((True, True), (True, False), (False, True)):
        wide = draw((5, heads * dim + 6), dtype, device)
        weight = draw((dim,), dtype, device, 1) if normed else None
        x, beside = wide[:, 4:-2].unflatten(1, (heads, dim)), wide.clone()
        cos, sin = angles if turned else (None, None)
        parts = [None if part is None else part.double() for part in (weight, cos, sin)]
        expected = reference.norm_rotary(x.double(), parts[0], 1e-6, *parts[1:])
        ops.norm_rotary(x, weight, 1e-6, cos, sin, backend="triton")
        near(x, expected, dtype)
        assert torch.equal(wide[:, :4], beside[:, :4]) and torch.equal(wide[:, -2:], beside[:, -2:])
    ops.norm_rotary(x[:0], weight, 1e-6, cos[:0], sin[:0], backend="triton")
