"""Top-k against the reference, to the index: any K and N, ties, zeros, chunks, profiles."""

import numpy as np
import pytest
import torch

from nagfast import ops, reference
from nagfast.errors import ArgumentError

SHAPES = [(1, 1, 1), (2, 7, 7), (3, 64, 64), (1, 1000, 1), (2, 1024, 20), (2, 1025, 33), (1, 2100, 64), (1, 200, 100)]


def draw(rows, neurons, device, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, neurons), dtype=np.float32)
    return torch.from_numpy(np.abs(values).round(1)).to(device)  # many ties


@pytest.mark.parametrize(("rows", "neurons", "k"), SHAPES)
def test_topk(rows, neurons, k, device):
    values = draw(rows, neurons, device)
    found = ops.topk(values, k, backend="triton")
    assert found.dtype == torch.uint16
    np.testing.assert_array_equal(found.cpu().numpy(), reference.topk(values.cpu().numpy(), k))


def test_every_k(device):
    values = draw(1, 70, device)
    order = reference.topk(values.cpu().numpy(), 70)
    for k in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64):
        assert ops.topk(values, k, backend="triton").tolist() == order[:, :k].tolist()


def test_zeros_signs_and_infinities(device):
    rows = [[0.0] * 6, [-1, -0.0, 0, -2, -torch.inf, -3], [0, torch.inf, 3e38, torch.inf, -torch.inf, 1e-45]]
    values = torch.tensor(rows, device=device)
    found = ops.topk(values, 6, backend="triton").cpu().numpy()
    np.testing.assert_array_equal(found, reference.topk(values.cpu().numpy(), 6))


def test_more_than_65535_neurons(device):
    values = torch.zeros(1, 66_000, device=device)
    values[0, 65_999] = values[0, 65_537] = 1
    found = ops.topk(values, 2, backend="triton")
    assert found.dtype == torch.uint32 and found.tolist() == [[65_537, 65_999]]


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan])
def test_what_is_not_a_number_is_seen(bad, device):
    values = draw(2, 30, device)
    broken = torch.zeros(1, dtype=torch.int32, device=device)
    ops.topk(values, 3, broken=broken, backend="triton")
    ops.check_broken(broken)
    values[1, 17] = bad
    with pytest.raises(ArgumentError, match="NaN"):
        ops.topk(values, 3, backend="triton")
    assert (ops.topk(values, 30, broken=broken, backend="triton").cpu().numpy() < 30).all()
    with pytest.raises(ArgumentError, match="NaN"):
        ops.check_broken(broken)


@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
def test_chunks_are_added_on_the_fly(reduction, device):
    lengths = [130, 0, 257]
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((sum(lengths), 132), generator=generator).round(decimals=1).to(device)
    options = {"reduction": reduction, "backend": "triton"}
    partials = ops.segment_impact(x, cu_seqlens, finish=False, **options)
    impacts = ops.segment_impact(x, cu_seqlens, **options)
    assert isinstance(partials, ops.Partials) and partials.shape == impacts.shape
    assert torch.equal(ops.finished(partials), impacts)
    expected = ops.topk(impacts, 9, backend="triton").cpu()
    assert torch.equal(ops.topk(partials, 9, backend="triton").cpu(), expected)
    assert torch.equal(ops.topk(partials, 9, backend="reference").cpu(), expected)
    both = [ops.swiglu_impact(x.clone(), cu_seqlens, finish=f, **options) for f in (True, False)]
    assert torch.equal(*(ops.topk(x, 5, backend="triton").cpu() for x in both))


@pytest.mark.parametrize(("profiles", "dtype"), [(1, torch.int32), (3, torch.uint16), (40, torch.uint32)])
def test_profiles(profiles, dtype, device):
    values = draw(3, 50, device)
    table = torch.from_numpy(np.random.default_rng(1).integers(0, 60_000, (50, profiles)))
    nags = torch.full((3, 2, 6), 9999, dtype=torch.uint16, device=device)
    sums = torch.full((3, profiles), 1 << 40, device=device)
    chosen = reference.topk(values.cpu().numpy(), 6)
    expected = reference.table_sums(chosen, table.numpy())
    for out, rounds in ((nags[:, 1], 1), (None, 2)):
        ops.topk_profile(values, 6, table.to(dtype).to(device), sums, out=out, backend="triton")
        np.testing.assert_array_equal(sums.cpu().numpy() - (1 << 40), rounds * expected)
    np.testing.assert_array_equal(nags[:, 1].cpu().numpy(), chosen)
    assert (nags[:, 0].cpu().numpy() == 9999).all()


def test_no_rows(device):
    sums = torch.zeros((0, 1), dtype=torch.int64, device=device)
    table = torch.ones((9, 1), dtype=torch.int32, device=device)
    ops.topk_profile(torch.zeros((0, 9), device=device), 3, table, sums, backend="triton")
    assert ops.topk(torch.zeros((0, 9), device=device), 3, backend="triton").shape == (0, 3)
