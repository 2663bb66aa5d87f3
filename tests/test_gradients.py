"""act_grad: equal to plain autograd for every architecture, for any packing, without what it need not compute."""

import logging

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, FALLBACK, tiny_backbone, tiny_model
from torch import nn

from nagfast import gradients, ops, reference, taps
from nagfast.errors import ArgumentError, NagfastError
from nagfast.gradients import act_grad_impacts, act_grad_nags
from nagfast.packing import pack

GATED = {"qwen2", "qwen3", "llama", "mistral", "ministral", "smollm3", "gemma2", "gemma3_text", "olmo2", "olmo3"}
GATED |= {"phi3", "granite", "cohere2", "glm4", "stablelm"}
LENGTHS = (30, 17, 17, 5, 2, 1)


def documents(lengths=LENGTHS, vocab=300, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, size=n) for n in lengths]


def alone(name, tokens, dtype):
    """Plain autograd of the stock model, one document at a time; zeros for a single token."""
    model = tiny_model(name).to(dtype)
    model.set_attn_implementation("eager")
    downs = [taps.find_down(layer) for layer in taps.decoder_layers(model, model.config.num_hidden_layers)]
    found = [reference.act_grad_impacts(model, downs, ids) if len(ids) > 1 else None for ids in tokens]
    return np.stack([np.zeros_like(found[0]) if x is None else x for x in found])


def measured(backbone, tokens, budget=1000, reduction="mean_abs"):
    out = np.full((len(tokens), backbone.num_layers, backbone.num_neurons()), np.nan, np.float32)
    for batch in pack(tokens, budget):
        out[batch.rows] = np.stack(act_grad_impacts(backbone, batch, reduction), axis=1)
    return out


@pytest.mark.parametrize("name", [*ARCHITECTURES, *FALLBACK])
def test_equals_plain_autograd_in_float64(name):
    """Within 1e-6 of the layer's largest, plus what plain autograd itself loses by running in float32."""
    backbone, tokens = tiny_backbone(name), documents()
    exact, plain = alone(name, tokens, torch.float64), alone(name, tokens, torch.float32)
    found = measured(backbone, tokens)
    scale = exact.max(axis=(0, 2), keepdims=True)
    rounding = (np.abs(plain - exact) / scale).max()
    assert rounding < 4e-6
    assert (np.abs(found - exact) / scale).max() <= 1e-6 + rounding
    assert (found[-1] == 0).all()
    (batch,) = pack(tokens, 1000)
    nags = act_grad_nags(backbone, batch, 8)
    np.testing.assert_array_equal(nags[:-1], reference.topk(exact, 8)[:-1])
    assert (nags[-1] == 0xFFFF).all()
    plan = gradients._PLANS[backbone]
    assert plan.head is not None
    assert [site.gated is not None for site in plan.sites] == [name in GATED] * backbone.num_layers


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gpt_neox"])
def test_l2(name):
    backbone, tokens = tiny_backbone(name), documents((30, 17))
    found = measured(backbone, tokens, reduction="l2")
    model = tiny_model(name).double()
    model.set_attn_implementation("eager")
    downs = [taps.find_down(layer) for layer in taps.decoder_layers(model, model.config.num_hidden_layers)]
    exact = np.stack([reference.act_grad_impacts(model, downs, ids, "l2") for ids in tokens])
    np.testing.assert_allclose(found / exact.max(), exact / exact.max(), atol=4e-6)


@pytest.mark.parametrize("settings", [{"logits_scaling": 8.0}, {"logit_scale": 0.25}, {"final_logit_softcapping": 5.0}])
def test_heads_that_bend_their_logits(settings):
    """Strong settings: without the factor or the slope of the cap the result would be far off."""
    name = {"logits_scaling": "granite", "logit_scale": "cohere2", "final_logit_softcapping": "gemma2"}[
        next(iter(settings))
    ]
    backbone, tokens = tiny_backbone(name, **settings), documents((30, 17))
    assert gradients._plan(backbone).head is not None
    model = tiny_model(name, **settings).double()
    model.set_attn_implementation("eager")
    downs = [taps.find_down(layer) for layer in taps.decoder_layers(model, model.config.num_hidden_layers)]
    exact = np.stack([reference.act_grad_impacts(model, downs, ids) for ids in tokens])
    scale = exact.max(axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(measured(backbone, tokens) / scale, exact / scale, atol=4e-6)


class Doubled(nn.Module):
    """A head that does something no configuration tells."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def test_an_unknown_head_falls_back_to_whole_logits_and_says_so(caplog):
    backbone, tokens = tiny_backbone("qwen3"), documents((30, 17, 17, 2))
    backbone.model.lm_head.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    with caplog.at_level(logging.DEBUG, logger="nagfast.gradients"):
        found = measured(backbone, tokens)
    assert "whole logits are used" in caplog.text
    model = tiny_model("qwen3").double()
    model.set_attn_implementation("eager")
    model.lm_head.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    downs = [layer.mlp.down_proj for layer in model.model.layers]
    exact = np.stack([reference.act_grad_impacts(model, downs, ids) for ids in tokens])
    scale = exact.max(axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(found / scale, exact / scale, atol=4e-6)


def test_a_head_that_is_no_projection_falls_back(caplog):
    tokens = documents((30, 17))
    expected = measured(tiny_backbone("qwen3"), tokens)
    other = tiny_backbone("qwen3")
    other.model.lm_head.weight.data.mul_(0.5)
    other.model.lm_head = Doubled(other.model.lm_head)
    with caplog.at_level(logging.DEBUG, logger="nagfast.gradients"):
        found = measured(other, tokens)
    assert "no linear projection" in caplog.text
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * expected.max())


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "bloom"])
def test_packing_does_not_show(name):
    backbone = tiny_backbone(name)
    tokens = documents((31, 31, 30, 12, 7, 7, 7, 3, 1))
    whole = measured(backbone, tokens, 1)
    for budget in (40, 64, 1000):
        found = measured(backbone, tokens, budget)
        np.testing.assert_allclose(found, whole, rtol=0, atol=2e-6 * whole.max())
        for batch in pack(tokens, budget):
            nags = act_grad_nags(backbone, batch, 8)
            expected = reference.topk(whole[batch.rows], 8).astype(np.uint16)
            expected[batch.lengths < 2] = 0xFFFF
            np.testing.assert_array_equal(nags, expected)


def test_only_single_tokens():
    backbone = tiny_backbone("qwen3")
    (batch,) = pack(documents((1, 1, 1)), 100)
    assert (act_grad_nags(backbone, batch, 4) == 0xFFFF).all()


def test_logits_come_in_chunks(monkeypatch):
    backbone, tokens = tiny_backbone("qwen3"), documents((40, 30, 20, 9))
    expected = measured(backbone, tokens)
    widest = []
    whole = gradients.Head._chunk
    monkeypatch.setattr("nagfast.head.CHUNK_ROWS", (1, 7))
    monkeypatch.setattr(gradients.Head, "_chunk", lambda self, h, y: widest.append(len(h)) or whole(self, h, y))
    found = measured(backbone, tokens)
    assert max(widest) == 7 and sum(widest) == 99 - 4  # the last token of a document has no label
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * expected.max())


def test_saves_the_gate_and_up_products_and_no_more_than_estimated():
    """Nothing before the first MLP is recorded, the input of no projection is kept, and the estimate holds."""
    backbone = tiny_backbone("qwen3")
    (batch,) = pack(documents((64, 64, 64)), 1000)
    act_grad_nags(backbone, batch, 4)  # plan made
    weights = {p.untyped_storage().data_ptr() for p in backbone.model.parameters()}
    seen = {}

    def note(x):
        if x.untyped_storage().data_ptr() not in weights:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        act_grad_nags(backbone, batch, 4)
    per_token = sum(seen.values()) / 192
    least = backbone.num_layers * 2 * backbone.num_neurons() * 4
    assert least < per_token < gradients.saved_bytes_per_token(backbone)
    assert gradients.saved_bytes_per_token(backbone) < 2 * per_token


def test_parameters_and_modules_stay_as_they_were():
    backbone = tiny_backbone("llama")
    (batch,) = pack(documents(), 1000)
    forwards = [vars(layer.mlp).get("forward") for layer in backbone.layers]
    before = backbone.nags(batch, 8)["fwd_up"]
    act_grad_nags(backbone, batch, 8)
    assert [vars(layer.mlp).get("forward") for layer in backbone.layers] == forwards
    assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())
    np.testing.assert_array_equal(backbone.nags(batch, 8)["fwd_up"], before)
    backbone = tiny_backbone("gpt_neox")
    act_grad_nags(backbone, batch, 8)
    assert not any(m._forward_pre_hooks for m in backbone.model.modules())


def test_an_error_on_the_way_leaves_the_modules_as_they_were(monkeypatch):
    backbone = tiny_backbone("llama")
    (batch,) = pack(documents(), 1000)

    def broken(*_args, **_options):
        raise torch.OutOfMemoryError("out of memory")

    forwards = [vars(layer.mlp).get("forward") for layer in backbone.layers]
    expected = act_grad_nags(backbone, batch, 8)
    with monkeypatch.context() as patch:
        patch.setattr(ops, "swiglu_backward", broken)
        with pytest.raises(torch.OutOfMemoryError):
            act_grad_nags(backbone, batch, 8)
    assert [vars(layer.mlp).get("forward") for layer in backbone.layers] == forwards
    np.testing.assert_array_equal(act_grad_nags(backbone, batch, 8), expected)


def test_bfloat16_stays_near_float32():
    tokens = documents((40,) * 8)
    (batch,) = pack(tokens, 1000)
    a, b = (act_grad_nags(tiny_backbone("qwen3", dtype=d), batch, 16) for d in (torch.float32, torch.bfloat16))
    assert np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)]) > 0.85


def test_what_is_not_a_number_is_refused():
    backbone = tiny_backbone("qwen3")
    gradients._plan(backbone)
    backbone.model.lm_head.weight.data[:] = float("nan")
    (batch,) = pack(documents(), 1000)
    with pytest.raises(ArgumentError, match="NaN"):
        act_grad_nags(backbone, batch, 4)


def test_a_layer_without_a_down_projection_is_refused():
    backbone = tiny_backbone("qwen3")
    backbone.layers[1].mlp.down = backbone.layers[1].mlp.down_proj
    del backbone.layers[1].mlp.down_proj
    (batch,) = pack(documents(), 1000)
    with pytest.raises(NagfastError, match="qwen3 has no down projection"):
        act_grad_nags(backbone, batch, 4)


def test_tokens_per_step_follow_the_memory(monkeypatch):
    backbone = tiny_backbone("qwen3")
    each = gradients.saved_bytes_per_token(backbone)
    for budget, expected in [(0, 256), (1000 * each, 512), (1024 * each, 1024), (10**15, 2048)]:
        monkeypatch.setattr(gradients.env, "memory_budget", lambda budget=budget: budget)
        assert gradients.batch_tokens_for(backbone, 2048) == expected


def test_free_memory_of_a_gpu_is_asked_for_once(monkeypatch):
    backbone = tiny_backbone("qwen3")
    asked = []
    each = gradients.saved_bytes_per_token(backbone)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda d: asked.append(d) or (4000 * each, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda d: 600 * each)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda d: 400 * each)
    plan = gradients._plan(backbone)
    backbone.device = torch.device("cuda:1")
    assert [gradients.batch_tokens_for(backbone, most) for most in (16384, 1024)] == [2048, 1024]
    assert plan.free_memory == 4200 * each and len(asked) == 1
