"""The kernels of the backward pass against autograd, and the same to the bit for any packing."""

import numpy as np
import pytest
import torch

from nagfast import ops, reference

ACTIVATIONS = ["silu", "gelu", "gelu_tanh"]
LENGTHS = [[], [0], [1], [0, 3, 0], [127], [128], [129, 16, 15, 17], [260, 1]]
# Of the largest; the interpreter cuts float32 to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}


def draw(tokens, columns, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, columns, generator=generator) * 3).to(dtype).to(device)


def ends(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def near(found, expected, dtype):
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.cpu().float(), expected.float(), rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_autograd(activation, dtype, device):
    for number, (lengths, width) in enumerate(zip(LENGTHS, [7, 1, 129, 64, 130, 128, 200, 33], strict=True)):
        reduction = ("mean_abs", "l2")[number % 3 % 2]
        cu_seqlens = ends(lengths)
        gate_up = draw(cu_seqlens[-1], 2 * width, dtype, device, number)
        d_act = draw(cu_seqlens[-1], width, dtype, device, 50 + number)
        gate, up = gate_up.cpu().double().chunk(2, dim=1)
        d_gate, d_up, product = reference.swiglu_backward(gate, up, d_act.cpu().double(), activation)
        impact = ops.swiglu_backward(
            gate_up, d_act, cu_seqlens, activation=activation, reduction=reduction, backend="triton"
        )
        near(gate_up, torch.cat([d_gate, d_up], dim=1), dtype)
        wanted = ops.segment_impact(product.float(), cu_seqlens, reduction=reduction, backend="reference")
        near(impact, wanted, torch.float32)


def test_packing_does_not_show(device):
    lengths = [130, 257, 1, 30]
    gate_up, d_act = draw(418, 200, torch.float32, device), draw(418, 100, torch.float32, device, 1)
    whole = gate_up.clone()
    impact = ops.swiglu_backward(whole, d_act, ends(lengths), backend="triton")
    for d, (first, length) in enumerate(zip(ends(lengths), lengths, strict=False)):
        part = slice(first, first + length)
        alone = gate_up[part].clone()
        found = ops.swiglu_backward(alone, d_act[part], ends([length]), backend="triton")
        assert torch.equal(found, impact[d : d + 1])
        assert torch.equal(alone, whole[part])


def test_rows_may_be_strided(device):
    wide, d_wide = draw(40, 100, torch.float32, device), draw(40, 60, torch.float32, device, 2)
    before = wide.clone()
    packed, cu_seqlens = wide[:, 10:90].clone(), ends([17, 23])
    expected = ops.swiglu_backward(packed, d_wide[:, 5:45].clone(), cu_seqlens, backend="triton")
    found = ops.swiglu_backward(wide[:, 10:90], d_wide[:, 5:45], cu_seqlens, backend="triton")
    assert torch.equal(found, expected)
    assert torch.equal(wide[:, 10:90], packed)
    assert torch.equal(wide[:, :10], before[:, :10]) and torch.equal(wide[:, 90:], before[:, 90:])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slope_at_the_limits(activation, device):
    gate = torch.tensor([[0.0, 1e30, -1e30, 100, -100, 20, -20]], device=device)
    ones = torch.ones_like(gate)
    gate_up = torch.cat([gate, ones], dim=1)
    ops.swiglu_backward(gate_up, ones, ends([1]), activation=activation, backend="triton")
    torch.testing.assert_close(gate_up[0, :7].cpu(), torch.tensor([0.5, 1, 0, 1, 0, 1, 0]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [1, 300, 4096, 9001])
def test_softmax_gradient(vocabulary, dtype, device):
    wide = (draw(3, vocabulary + 5, dtype, device) * 3).to(dtype)
    wide[1] += 1000
    wide[2, vocabulary // 2] = float("-inf")  # models pad their vocabulary so
    beside, logits = wide[:, vocabulary:].clone(), wide[:, :vocabulary]
    labels = torch.tensor([0, vocabulary - 1, vocabulary // 3], device=device)
    wanted = reference.softmax_gradient(logits.cpu().double(), labels.cpu())
    if vocabulary == 1:
        logits[2] = wanted[2] = 0  # a row of nothing but -inf has no softmax
    found = ops.softmax_gradient(logits, labels, backend="triton")
    assert found.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=0, atol=1e-6 if dtype == torch.float32 else 2.0**-7)
    assert torch.equal(wide[:, vocabulary:], beside)


def test_softmax_gradient_of_no_rows(device):
    empty = torch.zeros((0, 7), device=device)
    assert ops.softmax_gradient(empty, torch.zeros(0, dtype=torch.int64, device=device), backend="triton").shape == (
        0,
        7,
    )
