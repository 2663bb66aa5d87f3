"""The fast tier: equal to the generic tier and to documents run alone; taken only where that was seen."""

import logging

import numpy as np
import pytest
import torch
from test_backbone import alone, assert_near, documents
from tiny import ARCHITECTURES, NoTokenizer, tiny_backbone, tiny_model

from nagfast import ops, reference, runner
from nagfast.backbone import Backbone, Measure
from nagfast.errors import ArgumentError
from nagfast.packing import pack

FAST = ["qwen2", "qwen3", "llama", "mistral", "ministral", "smollm3", "phi3", "granite"]
ALL = Measure(("fwd_up", "fwd_down", "att_o"))
BFLOAT16_NEAR = 0.03  # of the layer's largest impact; products are rounded to 8 bits, 3 layers deep


def both(backbone, batch, measure=ALL):
    """Impacts by the runner and by the generic tier."""
    assert backbone.tier == "fast"
    fast = backbone.impacts(batch, measure)
    tier, backbone.fast = backbone.fast, None
    generic = backbone.impacts(batch, measure)
    backbone.fast = tier
    return fast, generic


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_family_is_fast_and_nothing_else(name):
    backbone = tiny_backbone(name)
    assert (backbone.tier == "fast") == (name in FAST)
    assert backbone.tier_reason
    if name not in FAST:
        with pytest.raises(ArgumentError, match=f"tier: {name} has no fast tier"):
            tiny_backbone(name, tier="fast")


@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("name", FAST)
def test_equals_the_generic_tier_and_documents_alone(name, reduction):
    backbone, tokens = tiny_backbone(name), documents()
    expected = alone(name, tokens, reduction)
    measure = Measure(ALL.neuron_types, reduction)
    for batch in pack(tokens, 90):
        fast, generic = both(backbone, batch, measure)
        for neuron_type in measure.neuron_types:
            assert_near(fast[neuron_type], generic[neuron_type])
        assert_near(fast["fwd_up"], expected[batch.rows])


@pytest.mark.parametrize("name", FAST)
def test_bfloat16_is_near_the_generic_tier(name):
    backbone = tiny_backbone(name, dtype=torch.bfloat16)
    batch = next(pack(documents(lengths=(40,) * 8), 1000))
    fast, generic = both(backbone, batch)
    for neuron_type, expected in generic.items():
        scale = expected.max(axis=(0, 2), keepdims=True)
        assert (np.abs(fast[neuron_type] - expected) / scale).max() < BFLOAT16_NEAR


@pytest.mark.parametrize("types", [("fwd_up",), ("fwd_down",), ("att_o",), ("fwd_up", "att_o"), ("fwd_down", "att_o")])
def test_any_set_of_its_neuron_types(types):
    backbone = tiny_backbone("qwen3")
    batch = next(pack(documents(), 1000))
    fast, _ = both(backbone, batch)
    found = backbone.impacts(batch, Measure(types))
    assert set(found) == set(types)
    for neuron_type in types:
        np.testing.assert_array_equal(found[neuron_type], fast[neuron_type])


def test_other_neuron_types_take_the_generic_tier(monkeypatch):
    backbone = tiny_backbone("qwen3")
    batch = next(pack(documents(), 1000))
    expected = backbone.impacts(batch, ALL)
    monkeypatch.setattr(backbone.fast, "run", None)
    found = backbone.impacts(batch, Measure(("fwd_up", "att_k")))
    assert_near(found["fwd_up"], expected["fwd_up"])


MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}


@pytest.mark.parametrize("setting", MULTIPLIERS)
def test_a_model_that_only_looks_plain_falls_back_and_says_so(setting, caplog):
    """Attention's multiplier is seen in the call, and the head's is not run; the others must be found out."""
    with caplog.at_level(logging.DEBUG, logger="nagfast.backbone"):
        backbone = tiny_backbone("granite", **{setting: MULTIPLIERS[setting]})
    plain = setting in {"attention_multiplier", "logits_scaling"}
    assert (backbone.tier == "fast") == plain
    assert backbone.layout == "packed"
    if not plain:
        assert "granite: generic tier (it looks plain, but" in caplog.text
        assert "impacts differ by" in backbone.tier_reason


def test_a_wrong_rotary_embedding_is_found_out(monkeypatch):
    def half_right(x, weight, eps, cos, sin, **_):
        x.copy_(reference.norm_rotary(x, weight, eps, cos, -sin))

    monkeypatch.setattr(runner.ops, "norm_rotary", half_right)
    backbone = tiny_backbone("llama")
    assert backbone.layout == "packed" and backbone.tier == "generic"


def test_a_rotary_embedding_over_part_of_a_head_falls_back():
    backbone = tiny_backbone("phi3", partial_rotary_factor=0.5)
    assert backbone.tier == "generic" and "rotary embedding" in backbone.tier_reason


BIASES = {"qwen2": {}, "llama": {"attention_bias": True, "mlp_bias": True}, "smollm3": {"attention_bias": True}}


@pytest.mark.parametrize("name", BIASES)
def test_biases(name):
    model = tiny_model(name, **BIASES[name])
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    backbone = Backbone(model, NoTokenizer(), name, torch.device("cpu"))
    backbone.prepare(tier="fast")
    fast, generic = both(backbone, next(pack(documents(), 1000)))
    for neuron_type, expected in generic.items():
        assert_near(fast[neuron_type], expected)


@pytest.mark.parametrize("window", [1, 4, 16])
def test_windows(window):
    backbone = tiny_backbone("mistral", sliding_window=window)
    whole = tiny_backbone("mistral", sliding_window=None)
    batch = next(pack(documents(), 1000))
    fast, generic = both(backbone, batch)
    for neuron_type, expected in generic.items():
        assert_near(fast[neuron_type], expected)
    assert np.abs(fast["fwd_up"] - whole.impacts(batch)["fwd_up"]).max() > 1e-3


def test_nothing_is_computed_that_is_not_needed():
    """Not a number in the last gate, the last down projection, the final norm and the head: nobody notices."""
    backbone = tiny_backbone("llama")
    batch = next(pack(documents(), 1000))
    expected = backbone.impacts(batch, Measure(("fwd_up", "att_o")))
    last = backbone.layers[-1].mlp
    for weight in (last.gate_proj.weight, last.down_proj.weight, backbone.model.model.norm.weight):
        weight.data.fill_(float("nan"))
    backbone.model.lm_head.weight.data.fill_(float("nan"))
    found = backbone.impacts(batch, Measure(("fwd_up", "att_o")))
    for neuron_type in expected:
        np.testing.assert_array_equal(found[neuron_type], expected[neuron_type])
    assert np.isnan(backbone.impacts(batch, Measure(("fwd_down",)))["fwd_down"]).any()


def test_what_is_not_a_number_is_refused():
    backbone = tiny_backbone("llama")
    backbone.layers[1].mlp.up_proj.weight.data[3] = float("nan")  # a view of the merged weight
    batch = next(pack(documents(), 1000))
    with pytest.raises(ArgumentError, match="NaN"):
        backbone.nags(batch, 4)


def test_weights_are_not_doubled():
    backbone = tiny_backbone("qwen3")
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in backbone.model.parameters()}
    for products in backbone.fast.products:
        for product in (products.qkv, products.out, products.gate_up, products.up, products.down):
            assert product.weight.untyped_storage().data_ptr() in held
    wanted = {id(p): p.numel() * p.element_size() for p in backbone.model.parameters()}
    assert sum(held.values()) == sum(wanted.values())


@pytest.mark.parametrize("tier", ["fast", "generic"])
def test_packing_does_not_show(tier):
    """The same bytes on this CPU; NAGs are asked for, impacts may differ where the matrix library splits otherwise."""
    backbone = tiny_backbone("qwen3", tier=tier)
    tokens = documents(lengths=(31, 31, 30, 12, 7, 7, 7, 3))
    whole = {}
    for budget in (1, 40, 64, 1000):
        for batch in pack(tokens, budget):
            nags, impacts = backbone.nags(batch, 8)["fwd_up"], backbone.impacts(batch)["fwd_up"]
            for row, nag, impact in zip(batch.rows, nags, impacts, strict=True):
                first = whole.setdefault(row, (nag, impact))
                np.testing.assert_array_equal(nag, first[0])
                assert_near(impact, first[1])


def test_buffers_start_with_anything(monkeypatch):
    """Nothing is read that this batch did not write."""
    backbone = tiny_backbone("qwen3")
    small, large = (next(pack(documents(lengths=n), 1000)) for n in ((5, 3), (40, 40, 23)))
    expected = backbone.impacts(small, ALL), backbone.impacts(large, ALL)
    empty = torch.empty

    def poisoned(*shape, **options):
        x = empty(*shape, **options)
        return x.fill_(float("nan")) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", poisoned)
    backbone.fast.buffers = runner.Buffers()
    for batch, wanted in zip((small, large, small), (*expected, expected[0]), strict=True):
        found = backbone.impacts(batch, ALL)
        for neuron_type in wanted:
            np.testing.assert_array_equal(found[neuron_type], wanted[neuron_type])


def test_more_neurons_than_uint16_holds():
    sizes = {"intermediate_size": 66_000, "hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    backbone = tiny_backbone("llama", **sizes, num_attention_heads=2, num_key_value_heads=1)
    assert backbone.tier == "fast"
    batch = next(pack(documents(lengths=(9, 5)), 1000))
    nags = backbone.nags(batch, 64)["fwd_up"]
    assert nags.dtype == np.uint32 and nags.max() > 65_535
    np.testing.assert_array_equal(nags, reference.topk(backbone.impacts(batch)["fwd_up"], 64))


@pytest.mark.parametrize("tier", ["fast", "generic"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_sums_are_those_of_the_nags(tier, dtype):
    backbone = tiny_backbone("qwen3", tier=tier)
    table = np.random.default_rng(0).integers(0, 60_000, (3, 160, 2)).astype(dtype)
    for batch in pack(documents(), 90):
        expected = ops.score(backbone.nags(batch, 8)["fwd_up"], table)
        found = backbone.start_sums(batch, table, 8).result()
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, expected)
    down = backbone.nags(batch, 8, Measure(("fwd_down",), "l2"))["fwd_down"]
    sums = backbone.start_sums(batch, table[:, :64].copy(), 8, neuron_type="fwd_down", reduction="l2").result()
    np.testing.assert_array_equal(sums, ops.score(down, table[:, :64].copy()))
    with pytest.raises(ArgumentError, match="table: got"):
        backbone.start_sums(batch, table[:2], 8)


def test_an_empty_batch_has_no_sums():
    backbone = tiny_backbone("qwen3")
    batch = next(pack(documents(), 1000))
    none = type(batch)(batch.input_ids[:0], batch.cu_seqlens[:1], batch.rows[:0])
    assert backbone.start_sums(none, np.ones((3, 160, 2), np.uint16), 8).result().shape == (0, 2)


def test_a_tier_that_does_not_exist():
    with pytest.raises(ArgumentError, match="tier: got 'slow'"):
        tiny_backbone("qwen3", tier="slow")
