"""The compiled kernels at sizes that the interpreter cannot reach; these need a GPU."""

import numpy as np
import pytest
import torch
from tiny import NoTokenizer, tiny_backbone, tiny_model

from nagfast import reference
from nagfast.backbone import Backbone
from nagfast.gradients import act_grad_nags
from nagfast.kernels import bit_search
from nagfast.kernels.profile_score import profile_sums
from nagfast.packing import pack

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

LAYERS, TOP_K, NEURONS = 8, 20, 1031


def draw(documents, seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    taste = torch.rand((documents, LAYERS, NEURONS), device="cuda", generator=generator)
    taste *= torch.linspace(1, 2, NEURONS, device="cuda")
    nags = taste.argsort(dim=2, descending=True)[:, :, :TOP_K]
    nags[documents // 3] = -1
    return nags


def members(nags):
    held = torch.zeros((len(nags), LAYERS, NEURONS + 1), dtype=torch.float16, device="cuda")
    held.scatter_(2, torch.where(nags < 0, NEURONS, nags), 1)
    return held[:, :, :NEURONS].flatten(1)


@pytest.mark.parametrize("targets", [1, 4095, 4096, 20_011])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_search_equals_a_product_of_matrices(targets, k):
    nags, queries = draw(targets, 0), draw(257, 1)
    shared = (members(queries) @ members(nags).T).long()
    best = (shared * 2**32 + 2**32 - 1 - torch.arange(targets, device="cuda")).topk(min(k, targets), dim=1).values
    rows = bit_search.build_rows(nags.int(), NEURONS)
    counts, ids = bit_search.search(rows, queries.int(), k)
    assert torch.equal(counts[:, :targets].long(), best >> 32)
    assert torch.equal(ids[:, :targets], 2**32 - 1 - (best & (2**32 - 1)))
    assert (counts[:, targets:] == -1).all()
    assert (ids[:, targets:] == -1).all()


def test_profile_sums_equal_a_product_of_matrices():
    nags = draw(5001, 2)
    table = torch.randint(0, 1 << 20, (LAYERS, NEURONS), device="cuda", dtype=torch.int32)
    expected = (members(nags).double() @ table.flatten().double()).long()
    assert torch.equal(profile_sums(nags.int(), table), expected)


def test_act_grad_is_that_of_the_cpu():
    """The whole backward pass: kernel, head in chunks and top K by keys on the device."""
    cpu = tiny_backbone("qwen3")
    gpu = Backbone(tiny_model("qwen3").cuda(), NoTokenizer(), "qwen3", torch.device("cuda"))
    gpu.prepare()
    rng = np.random.default_rng(0)
    (batch,) = pack([rng.integers(0, 300, size=n) for n in (130, 60, 60, 17, 2, 1)], 1000)
    expected, found = act_grad_nags(cpu, batch, 16), act_grad_nags(gpu, batch, 16)
    assert (found[-1] == 0xFFFF).all()
    overlaps = [reference.overlap(a, b) for a, b in zip(expected[:-1], found[:-1], strict=True)]
    assert np.mean(overlaps) > 0.98  # matrix products may run in TF32
