"""A whole backbone on the kernels: the runner and the generic tier as they run on a GPU."""

import sys

import numpy as np
import pytest
import torch
from tiny import tiny_backbone

from nagfast import ops, reference
from nagfast.backbone import Measure
from nagfast.errors import ArgumentError
from nagfast.gradients import act_grad_nags
from nagfast.packing import pack

ALL = Measure(("fwd_up", "fwd_down", "att_o"))
LIMIT = {torch.float32: 1e-5, torch.bfloat16: 0.03}  # of the layer's largest impact


@pytest.fixture
def kernels(monkeypatch):
    """Call it, and auto takes the kernels for tensors on the CPU too; it gives the modules of ops that did."""
    taken = set()

    def resolve_for(_device, _backend="auto", **_options):
        taken.add(sys._getframe(1).f_globals["__name__"].rpartition(".")[2])
        return "triton"

    def switch_on():
        for name in ("impact", "loss", "norms", "quantize", "topk"):
            module = sys.modules[f"nagfast.ops.{name}"]  # the package has functions of these names
            monkeypatch.setattr(module, "resolve_for", resolve_for)
        return taken

    return switch_on


def batch_of(lengths=(20, 7, 7, 1)):
    rng = np.random.default_rng(0)
    (batch,) = pack([rng.integers(0, 300, size=n) for n in lengths], 1000)
    return batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "tier"), [("qwen3", "fast"), ("gemma2", "generic")])
def test_impacts_are_those_of_the_cpu(name, tier, dtype, kernels):
    backbone, batch = tiny_backbone(name, dtype=dtype, num_hidden_layers=2), batch_of()
    assert backbone.tier == tier
    expected = backbone.impacts(batch, ALL)
    taken = kernels()
    found = backbone.impacts(batch, ALL)
    assert taken == ({"impact", "norms"} if tier == "fast" else {"impact"})
    for neuron_type, impacts in expected.items():
        scale = impacts.max(axis=(0, 2), keepdims=True)
        assert (np.abs(found[neuron_type] - impacts) / scale).max() < LIMIT[dtype]


def test_nags_and_sums(kernels):
    backbone, batch = tiny_backbone("qwen3", num_hidden_layers=2), batch_of()
    table = np.random.default_rng(0).integers(0, 60_000, (2, 160, 2)).astype(np.uint16)
    expected = backbone.nags(batch, 8)["fwd_up"]
    taken = kernels()
    np.testing.assert_array_equal(backbone.nags(batch, 8)["fwd_up"], expected)
    np.testing.assert_array_equal(backbone.start_sums(batch, table, 8).result(), ops.score(expected, table))
    assert taken == {"impact", "norms", "topk"}
    backbone.layers[1].mlp.up_proj.weight.data[3] = float("nan")
    pending = backbone.start_nags(batch, 8)
    with pytest.raises(ArgumentError, match="NaN"):
        pending.result()


def test_float8_products(kernels):
    """Eight bits magnify what the last bit of a norm does: the same neurons, not the same impacts."""
    backbone, batch = tiny_backbone("qwen3", dtype=torch.bfloat16, num_hidden_layers=2), batch_of((20,) * 4)
    backbone.use_float8(emulate=True)
    expected = backbone.nags(batch, 20)["fwd_up"]
    taken = kernels()
    found = backbone.nags(batch, 20)["fwd_up"]
    assert "quantize" in taken
    assert np.mean([reference.overlap(x, y) for x, y in zip(found, expected, strict=True)]) > 0.85


def test_act_grad(kernels):
    backbone, batch = tiny_backbone("qwen3", num_hidden_layers=2), batch_of((20, 7, 2, 1))
    expected = act_grad_nags(backbone, batch, 8)
    taken = kernels()
    np.testing.assert_array_equal(act_grad_nags(backbone, batch, 8), expected)
    assert {"impact", "topk", "loss"} <= taken
