"""The compiled kernels at sizes that the interpreter cannot reach; these need a GPU."""

import numpy as np
import pytest
import torch
from tiny import NoTokenizer, tiny_backbone, tiny_model

from nagfast import attention, ops, reference, varlen
from nagfast.backbone import Backbone, Measure
from nagfast.errors import ArgumentError
from nagfast.gradients import act_grad_nags
from nagfast.kernels import bit_search
from nagfast.kernels.profile_score import profile_sums
from nagfast.packing import pack
from nagfast.placing import place
from nagfast.products import EmulatedFloat8Product, Float8Product

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


# --- the backbone -----------------------------------------------------------------------------------------------------


def twins(name, dtype, **options):
    """The same model on the CPU in float32 and on the GPU."""
    cpu = tiny_backbone(name, **options)
    gpu = Backbone(tiny_model(name, dtype=dtype, **options).cuda(), NoTokenizer(), name, torch.device("cuda"))
    gpu.prepare()
    return cpu, gpu


def batch_of(lengths=(130, 60, 60, 17, 17, 5, 1)):
    rng = np.random.default_rng(0)
    (batch,) = pack([rng.integers(0, 300, size=n) for n in lengths], 1000)
    return batch


WIDE = {"head_dim": 64, "hidden_size": 256, "intermediate_size": 640}  # heads that the kernel takes


@pytest.mark.parametrize("window", [None, 1, 16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_variable_length_attention_is_that_of_runs(kv_heads, window):
    documents = place(batch_of(), torch.device("cuda")).documents
    generator = torch.Generator("cuda").manual_seed(0)
    total = int(documents.cu_seqlens[-1])
    merged = torch.randn(total, 4 + 2 * kv_heads, 64, device="cuda", generator=generator).to(torch.bfloat16)
    q, k, v = merged.split([4, kv_heads, kv_heads], dim=1)
    assert varlen.fits(q, v)
    found = varlen.attend(q, k, v, documents, 0.125, window)
    expected = attention.attend(q.float(), k.float(), v.float(), documents, attention.Scoring(0.125, window))
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama", "mistral", "smollm3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_tiers_measure_as_the_cpu_does(name, dtype):
    cpu, gpu = twins(name, dtype, **WIDE)
    assert (gpu.layout, gpu.tier) == ("packed", "fast")
    batch, measure = batch_of(), Measure(("fwd_up", "fwd_down", "att_o"))
    expected = cpu.impacts(batch, measure)
    for tier in ("fast", "generic"):
        gpu.fast = gpu.fast if tier == "fast" else None
        found = gpu.impacts(batch, measure)
        for neuron_type, impacts in expected.items():
            scale = impacts.max(axis=(0, 2), keepdims=True)
            assert (np.abs(found[neuron_type] - impacts) / scale).max() < 0.05
        nags = gpu.nags(batch, 16)["fwd_up"]
        np.testing.assert_array_equal(nags, reference.topk(found["fwd_up"], 16))


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo2", "phi3", "granite", "cohere2", "gpt_neox"])
def test_other_architectures_are_packed(name):
    cpu, gpu = twins(name, torch.bfloat16)
    assert gpu.layout == "packed"
    a, b = (x.nags(batch_of(), 16)["fwd_up"] for x in (cpu, gpu))
    assert np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)]) > 0.85


def test_batches_on_their_way_back_do_not_touch_each_other():
    _, gpu = twins("qwen3", torch.bfloat16, **WIDE)
    rng = np.random.default_rng(1)
    batches = list(pack([rng.integers(0, 300, size=n) for n in rng.integers(1, 130, 300)], 2048))
    expected = [gpu.nags(b, 16)["fwd_up"].copy() for b in batches]
    pending = [gpu.start_nags(b, 16) for b in batches]
    for started, wanted in zip(pending, expected, strict=True):
        np.testing.assert_array_equal(started.result()["fwd_up"], wanted)
    table = rng.integers(0, 60_000, (gpu.num_layers, gpu.num_neurons(), 2)).astype(np.uint16)
    sums = [gpu.start_sums(b, table, 16) for b in batches]
    for started, wanted in zip(sums, expected, strict=True):
        np.testing.assert_array_equal(started.result(), ops.score(wanted, table))


def test_what_is_not_a_number_is_refused_with_the_result():
    _, gpu = twins("llama", torch.bfloat16, **WIDE)
    gpu.layers[1].mlp.up_proj.weight.data[3] = float("nan")
    pending = gpu.start_nags(batch_of(), 16)
    with pytest.raises(ArgumentError, match="NaN"):
        pending.result()


def test_act_grad_through_the_attention_kernel():
    cpu, gpu = twins("qwen3", torch.bfloat16, **WIDE)
    a, b = (act_grad_nags(x, batch_of(), 16)[:-1] for x in (cpu, gpu))
    assert np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)]) > 0.8


@pytest.mark.skipif(torch.cuda.get_device_capability() < (8, 9), reason="no float8 products")
def test_float8():
    _, gpu = twins("qwen3", torch.bfloat16, **WIDE)
    weight = torch.randn(640, 256, device="cuda").to(torch.bfloat16)
    x = torch.randn(300, 512, device="cuda").to(torch.bfloat16)[:, :256]
    outs = [p.of(weight)(x, x.new_empty(300, 640)) for p in (Float8Product, EmulatedFloat8Product)]
    torch.testing.assert_close(*outs, rtol=0.02, atol=0.05)
    gpu.use_float8()
    assert gpu.float8_report.overlap > 0.7


@pytest.mark.parametrize(("neurons", "k"), [(3072, 20), (6144, 20), (9728, 64), (12_288, 7), (70_001, 20)])
def test_topk_is_exact_at_the_sizes_of_models(neurons, k):
    generator = torch.Generator("cuda").manual_seed(0)
    values = torch.rand((300, neurons), device="cuda", generator=generator).mul_(500).round_()  # many ties
    low = (1 << 32) - 1
    keys = (values.view(torch.int32).long() << 32) | (low - torch.arange(neurons, device="cuda"))
    expected = low - (torch.topk(keys, k).values & low)
    assert torch.equal(ops.topk(values, k, backend="triton").cpu().long(), expected.cpu())
    table = torch.randint(0, 60_000, (neurons, 5), device="cuda", generator=generator, dtype=torch.int32)
    sums = torch.zeros((300, 5), dtype=torch.int64, device="cuda")
    ops.topk_profile(values, k, table, sums, backend="triton")
    assert torch.equal(sums, table.long()[expected].sum(dim=1))


def test_a_document_measures_the_same_whatever_it_is_packed_with():
    """16,384 tokens in documents of 1 to 2,048: the activation, the impacts and the top K of each, alone and packed."""
    lengths = [1, 127, 128, 129, 2048, 120, 700, *[120] * 80]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    generator = torch.Generator("cuda").manual_seed(0)
    gate_up = torch.randn((int(ends[-1]), 2 * 6144), device="cuda", generator=generator).bfloat16()
    whole = gate_up.clone()
    packed = ops.swiglu_impact(whole, ends, finish=False)
    impacts, nags = ops.finished(packed), ops.topk(packed, 20)
    assert torch.equal(nags.cpu(), ops.topk(impacts, 20).cpu())
    up = gate_up[:, 6144:].float()
    for d in (0, 1, 2, 3, 4, 5, 6, len(lengths) - 1):
        part = slice(int(ends[d]), int(ends[d + 1]))
        alone = gate_up[part].clone()
        own = ops.swiglu_impact(alone, np.array([0, lengths[d]]))
        assert torch.equal(own[0], impacts[d]) and torch.equal(alone, whole[part])
        torch.testing.assert_close(own[0], up[part].abs().mean(dim=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("width", [1024, 2560, 6144])
def test_rows_in_eight_bits_are_those_of_torch(width):
    """On a GPU the kernel rounds as torch does, which the interpreter cannot show."""
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn((999, width), device="cuda", generator=generator).bfloat16()
    x[7] = 0
    found, scale = ops.quantize_rows(x, backend="triton")
    expected, scales = reference.quantize_rows(x)
    assert torch.equal(scale, scales)
    assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
