"""Every supported architecture: packed documents measure as they do alone; what cannot be right is refused."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, FALLBACK, REFUSED, NoTokenizer, tiny_backbone, tiny_model

from nagfast import attention, reference, taps
from nagfast.backbone import Backbone, Measure
from nagfast.errors import ArgumentError, NagfastError
from nagfast.fingerprints import model_fingerprint
from nagfast.packing import PackedBatch, pack

LENGTHS = (40, 40, 23, 17, 17, 17, 9, 2, 1, 1)


def documents(seed=3, lengths=LENGTHS, vocab=300):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, size=n) for n in lengths]


def fingerprint(model):
    return model_fingerprint(model, model.config)


def assert_near(measured, expected):
    """Within 1e-5 of the largest impact of the layer (float32 sums in another order)."""
    scale = np.abs(expected).max(axis=-1, keepdims=True)
    np.testing.assert_allclose(measured / scale, expected / scale, atol=1e-5)


def alone(name, tokens, reduction):
    """fwd_up impacts of every document by the reference: stock model, eager attention, one at a time."""
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    layers = taps.decoder_layers(model, model.config.num_hidden_layers)
    cut = [taps.find_tap(layer, "fwd_up", model.config) for layer in layers]
    found = []
    for ids in tokens:
        if cut[0].module.weight.shape[0] == cut[0].neurons:
            found.append(reference.projection_impacts(model.base_model, [t.module for t in cut], ids, reduction))
            continue
        # A merged gate and up projection: the reference measures the second half.
        whole = reference.projection_impacts(model.base_model, [t.module for t in cut], ids, reduction)
        found.append(whole[:, cut[0].neurons :])
    return np.stack(found)


@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_equals_alone(name, reduction):
    backbone = tiny_backbone(name)
    assert backbone.layout == "packed"
    tokens = documents()
    expected = alone(name, tokens, reduction)
    batches = list(pack(tokens, 90))
    for tier in sorted({backbone.tier, "generic"}):
        backbone.fast = backbone.fast if tier == "fast" else None
        with attention.watched() as calls:
            for batch in batches:
                measured = backbone.impacts(batch, Measure(("fwd_up",), reduction))["fwd_up"]
                assert_near(measured, expected[batch.rows])
                chosen = backbone.nags(batch, 8, Measure(("fwd_up",), reduction))["fwd_up"]
                np.testing.assert_array_equal(chosen, reference.topk(measured, 8))
        assert calls.calls == (0 if tier == "fast" else 2 * len(batches) * backbone.num_layers)


@pytest.mark.parametrize("name", FALLBACK)
def test_falls_back_to_equal_lengths_and_says_so(name, caplog):
    with caplog.at_level(logging.WARNING):
        backbone = tiny_backbone(name)
    assert backbone.layout == "equal_length"
    assert "cannot be packed" in caplog.text
    tokens = documents()
    expected = alone(name, tokens, "mean_abs")
    for batch in pack(tokens, 90):
        measured = backbone.impacts(batch)["fwd_up"]
        assert_near(measured, expected[batch.rows])


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_cannot_tap(name):
    with pytest.raises(NagfastError, match="no up projection|no list of 3 decoder layers"):
        Backbone(tiny_model(name), NoTokenizer(), name, torch.device("cpu"))


def test_a_wrong_attention_is_found_out(monkeypatch):
    """The check must fail, not pass, where packed attention lets documents see each other."""

    def leaky(*args, documents=None, **kwargs):
        ends = documents.cu_seqlens[[0, -1]]
        whole = replace(documents, cu_seqlens=ends, runs=[(0, 1, int(ends[1]))])
        return attention.packed_attention(*args, documents=whole, **kwargs)

    attention.AttentionInterface.register(attention.NAME, leaky)
    try:
        backbone = tiny_backbone("llama")
    finally:
        attention.AttentionInterface.register(attention.NAME, attention.packed_attention)
    assert backbone.layout == "equal_length"


def test_all_six_neuron_types():
    backbone = tiny_backbone("qwen3")
    types = ("fwd_up", "fwd_down", "att_q", "att_k", "att_v", "att_o")
    batch = next(pack(documents(), 1000))
    found = backbone.nags(batch, 5, Measure(types))
    assert {t: n.shape for t, n in found.items()} == dict.fromkeys(types, (len(LENGTHS), 3, 5))
    impacts = backbone.impacts(batch, Measure(types))
    assert impacts["att_k"].shape[-1] == 64  # two key heads of 16, each repeated twice
    heads = impacts["att_k"].reshape(len(LENGTHS), 3, 2, 2, 16)
    np.testing.assert_array_equal(heads[:, :, :, 0], heads[:, :, :, 1])


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "granite", "cohere2"])
def test_fused_and_plain_mlps_agree(name):
    backbone = tiny_backbone(name, tier="generic")
    assert backbone.generic.mlps is not None
    batch = next(pack(documents(), 1000))
    types = Measure(("fwd_up", "fwd_down"))
    fused = backbone.impacts(batch, types)
    backbone.generic.set_layout("packed", fuse=False)
    assert "forward" not in vars(backbone.layers[0].mlp)
    plain = backbone.impacts(batch, types)
    for neuron_type in types.neuron_types:
        assert_near(fused[neuron_type], plain[neuron_type])


def test_nags_do_not_depend_on_the_packing():
    backbone = tiny_backbone("qwen3")
    tokens = documents(lengths=(31, 31, 30, 12, 7, 7, 7, 3))
    whole = np.zeros((len(tokens), 3, 8), np.uint16)
    for budget in (1, 40, 64, 1000):
        found = np.zeros_like(whole)
        for batch in pack(tokens, budget):
            found[batch.rows] = backbone.nags(batch, 8)["fwd_up"]
        if budget == 1:
            whole = found
        np.testing.assert_array_equal(found, whole)


def test_bfloat16_runs_and_stays_near_float32():
    exact, rounded = tiny_backbone("qwen3"), tiny_backbone("qwen3", dtype=torch.bfloat16)
    batch = next(pack(documents(lengths=(40,) * 8), 1000))
    a, b = exact.nags(batch, 16)["fwd_up"], rounded.nags(batch, 16)["fwd_up"]
    assert np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)]) > 0.9


def test_one_checkpoint_has_one_fingerprint_in_both_dtypes():
    model = tiny_model("qwen3", dtype=torch.bfloat16)
    assert fingerprint(model) == fingerprint(model.float())
    assert fingerprint(model) != fingerprint(tiny_model("qwen3", seed=1))


def test_settings_that_change_a_forward_pass_change_the_fingerprint():
    model = tiny_model("qwen3")
    before = fingerprint(model)
    model.config.rms_norm_eps = 1e-3
    assert fingerprint(model) != before


def test_a_position_table_limits_the_length():
    backbone = tiny_backbone("opt")
    assert backbone.max_positions == 256
    with pytest.raises(ArgumentError, match="--max-length: got 257; .* 256 positions"):
        backbone.spec(top_k=4, max_length=257)
    assert tiny_backbone("qwen3").max_positions is None


def test_a_neuron_type_whose_tap_does_not_fit_is_dropped():
    backbone = Backbone(tiny_model("qwen3"), NoTokenizer(), "qwen3", torch.device("cpu"))
    backbone.taps["att_v"] = [
        taps.Tap(t.module, lambda x, _: x.unflatten(-1, (7, 9)), 64) for t in backbone.taps["att_v"]
    ]
    backbone.prepare()
    assert "att_v" not in backbone.taps and "att_k" in backbone.taps
    assert backbone.layout == "packed"


def test_fingerprint_and_memory_survive_the_merge_of_gate_and_up():
    model = tiny_model("llama")
    before = fingerprint(model)
    backbone = Backbone(model, NoTokenizer(), "llama", torch.device("cpu"))
    backbone.prepare()
    assert backbone.fingerprint == before == fingerprint(model)
    mlp = backbone.layers[0].mlp
    assert mlp.up_proj.weight.untyped_storage().data_ptr() == mlp.gate_proj.weight.untyped_storage().data_ptr()


def test_wrong_names_are_one_line():
    with pytest.raises(ArgumentError, match=r"--backbone: cannot load .*no-such-folder"):
        Backbone.load("./no-such-folder")
    with pytest.raises(ArgumentError, match="--device"):
        Backbone.load("bundled", device="tpu")
    with pytest.raises(ArgumentError, match="--dtype"):
        Backbone.load("bundled", dtype="float64")


def test_unknown_neuron_type_names_what_there_is():
    with pytest.raises(ArgumentError, match="gpt2|fwd_up"):
        tiny_backbone("qwen3").num_neurons("att_x")


def test_an_empty_batch_is_nothing():
    backbone = tiny_backbone("qwen3")
    empty = PackedBatch(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))
    assert backbone.nags(empty, 4)["fwd_up"].shape == (0, 3, 4)
