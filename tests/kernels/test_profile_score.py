"""profile_sums against the reference, to the last bit."""

import numpy as np
import pytest
import torch
from drawing import draw, sentinel

from nagfast import reference
from nagfast.kernels.profile_score import DOCUMENTS, ENTRIES, profile_sums

SHAPES = [(1, 1, 1, 1), (DOCUMENTS - 1, 2, 3, 7), (DOCUMENTS, 1, ENTRIES - 1, 200), (DOCUMENTS + 1, 1, ENTRIES, 129)]
SHAPES += [(2, 3, 43, 47), (40, 28, 20, 61), (3, 2, 64, 64)]


def draw_table(layers, neurons, dtype, seed=1):
    top = np.iinfo(dtype).max if dtype == np.int32 else 1 << 50
    table = np.random.default_rng(seed).integers(0, top, (layers, neurons), dtype=dtype, endpoint=True)
    table[0, 0] = top
    return table


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_equal_the_reference(shape, dtype, device):
    nags = draw(*shape)
    nags[::5] = sentinel(nags)
    table = draw_table(shape[1], shape[3], dtype)
    sums = profile_sums(torch.from_numpy(nags).to(device), torch.from_numpy(table).to(device))
    assert sums.dtype == torch.int64
    np.testing.assert_array_equal(sums.cpu().numpy(), reference.integer_sums(nags, table.astype(np.int64)))


def test_sums_beyond_32_bits(device):
    nags = torch.arange(60, dtype=torch.int32, device=device).expand(2, 40, 60)
    table = torch.full((40, 60), 2**31 - 1, dtype=torch.int32, device=device)
    assert profile_sums(nags, table).tolist() == [40 * 60 * (2**31 - 1)] * 2


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64])
def test_dtypes_and_views(dtype, device):
    wide = draw(9, 3, 12, 30)
    wide[4] = sentinel(wide)
    table = draw_table(2, 30, np.int32)
    expected = reference.integer_sums(wide[:, 1:, :5], table.astype(np.int64))
    same = np.where(wide == sentinel(wide), np.asarray(-1).astype(dtype), wide.astype(dtype))
    view = torch.from_numpy(same).to(device)[:, 1:, :5]
    np.testing.assert_array_equal(profile_sums(view, torch.from_numpy(table).to(device)).cpu().numpy(), expected)


def test_index_n_adds_nothing(device):
    nags = torch.tensor([[[0, 9], [1, 2]]], dtype=torch.int32, device=device)
    table = torch.arange(18, dtype=torch.int32, device=device).view(2, 9)
    assert profile_sums(nags, table).tolist() == [0 + 10 + 11]


def test_no_documents(device):
    nags = torch.zeros((0, 2, 3), dtype=torch.uint16, device=device)
    assert profile_sums(nags, torch.ones((2, 9), dtype=torch.int32, device=device)).shape == (0,)
