"""Float8 products: quantising, which products are picked, and the whole path emulated on the CPU."""

import logging

import numpy as np
import pytest
import torch
from test_backbone import documents
from tiny import tiny_backbone

from nagfast import float8, loading, ops, reference
from nagfast.backbone import Backbone, Measure
from nagfast.config import ExtractConfig
from nagfast.errors import ArgumentError
from nagfast.packing import pack
from nagfast.products import EmulatedFloat8Product, Float8Product, PlainProduct


def draw(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_quantised_to_within_half_a_step(dtype):
    x = draw(5, 33).to(dtype) * torch.tensor([1.0, 1e-20, 1e20, 0.0, -3.0], dtype=dtype)[:, None]
    values, scales = ops.quantize_rows(x, backend="reference")
    assert values.dtype == torch.float8_e4m3fn and scales.shape == (5, 1) and scales.dtype == torch.float32
    error = (values.float() * scales - x.float()).abs()
    largest = x.float().abs().amax(dim=1, keepdim=True)
    # 3 bits after the point; below 2^-6 of the format's unit the step is constant.
    assert (error <= x.float().abs() / 16 + largest * 2**-10 / 448).all()
    assert (values.float().abs().amax(dim=1)[[0, 1, 2, 4]] == 448).all()
    assert (values[3].float() == 0).all()


def test_rows_may_be_strided_columns():
    whole = draw(6, 64)
    for a, b in zip(ops.quantize_rows(whole[:, :32]), ops.quantize_rows(whole[:, :32].contiguous()), strict=True):
        assert torch.equal(a.float(), b.float()) and a.is_contiguous()


def test_what_is_not_a_number_stays_so():
    x = draw(3, 16)
    x[1, 3], x[2, 3] = float("nan"), float("inf")
    product = EmulatedFloat8Product.of(draw(8, 16, 1))
    out = product(x, torch.empty(3, 8, dtype=torch.bfloat16))
    assert out[0].isfinite().all() and out[1:].isnan().all()


@pytest.mark.parametrize("bias", [None, draw(1, 48, 2)[0]])
def test_an_emulated_product_is_near_the_plain_one(bias):
    x, weight = draw(40, 64), draw(48, 64, 1)
    expected = PlainProduct(weight, bias)(x, torch.empty(40, 48, dtype=torch.bfloat16)).float()
    product = EmulatedFloat8Product.of(weight, bias)
    found = product(x, torch.empty(40, 48, dtype=torch.bfloat16)).float()
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0.005 < error < 0.05  # 2^-4 rounded twice, averaged over 64 terms
    tail = product.tail(20)
    part = tail(x, torch.empty(40, 28, dtype=torch.bfloat16)).float()
    assert tail.rows == 28 and torch.equal(part, found[:, 20:])
    assert tail.weight.untyped_storage().data_ptr() == product.weight.untyped_storage().data_ptr()


def test_what_torch_is_asked_for(monkeypatch):
    """Row-major tokens, column-major weight, float32 scales of shapes [T, 1] and [1, rows]."""

    def scaled_mm(a, b, *, scale_a, scale_b, out_dtype, use_fast_accum, out):
        assert a.dtype == b.dtype == torch.float8_e4m3fn and out_dtype == out.dtype == torch.bfloat16
        assert a.is_contiguous() and b.t().is_contiguous()
        assert scale_a.shape == (len(a), 1) and scale_b.shape == (1, b.shape[1])
        assert scale_a.is_contiguous() and scale_b.is_contiguous() and use_fast_accum
        return out.copy_((a.float() * scale_a) @ (b.float() * scale_b))

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    x, weight = draw(40, 64), draw(48, 64, 1)
    outs = [p.of(weight)(x, torch.empty(40, 48, dtype=torch.bfloat16)) for p in (Float8Product, EmulatedFloat8Product)]
    torch.testing.assert_close(*outs)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "phi3"])
def test_the_whole_path(name, caplog):
    plain, backbone = (tiny_backbone(name, dtype=torch.bfloat16, tier="fast") for _ in range(2))
    with caplog.at_level(logging.INFO, logger="nagfast.backbone"):
        backbone.use_float8(emulate=True)
    report = backbone.float8_report
    assert report.products == dict.fromkeys(("qkv", "out", "gate_up", "down"), True)
    assert report.documents == 256 and 0.7 < report.overlap < 1
    assert f"top-20 overlap with bfloat16 {report.overlap:.4f} on 256 documents" in caplog.text
    batch = next(pack(documents(lengths=(40,) * 8), 1000))
    a, b = plain.nags(batch, 20)["fwd_up"], backbone.nags(batch, 20)["fwd_up"]
    overlap = np.mean([reference.overlap(x, y) for x, y in zip(a, b, strict=True)])
    assert abs(overlap - report.overlap) < 0.1
    assert backbone.spec().dtype == "float8"
    assert backbone.spec(impact="act_grad").dtype == backbone.spec(neuron_type="att_q").dtype == "bfloat16"
    np.testing.assert_array_equal(
        plain.nags(batch, 4, Measure(("att_q",)))["att_q"], backbone.nags(batch, 4, Measure(("att_q",)))["att_q"]
    )  # the generic tier is as it was


def test_products_that_do_not_pay_stay_in_bfloat16(monkeypatch):
    backbone = tiny_backbone("qwen3", dtype=torch.bfloat16)
    batch = next(pack(documents(), 1000))
    expected = backbone.nags(batch, 20)["fwd_up"]
    asked = []
    monkeypatch.setattr(float8, "_pays", lambda weight: asked.append(tuple(weight.shape)))
    backbone.fast, report = float8.float8_tier(backbone.fast, backbone.config)
    assert asked == [(320, 64), (128, 64), (64, 64), (64, 160)]  # once a shape, not once a layer
    assert report.overlap == 1 and not any(report.products.values())
    assert str(report).startswith("float8 for no product")
    np.testing.assert_array_equal(backbone.nags(batch, 20)["fwd_up"], expected)
    backbone.float8_report = report
    assert backbone.spec().dtype == "bfloat16"


def test_faster_is_picked(monkeypatch):
    times = iter([2.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(float8, "_milliseconds", lambda call: next(times))
    monkeypatch.setattr(float8, "TOKENS", 4)
    assert float8._pays(draw(32, 64)) is True
    assert float8._pays(draw(32, 64)) is False
    assert float8._pays(draw(32, 65)) is False and float8._pays(draw(33, 64)) is False
    assert float8._pays(draw(48, 64)) is False  # whose half, 24 rows, is none that the GPU multiplies


def test_where_it_is_refused(monkeypatch):
    with pytest.raises(ArgumentError, match="--dtype: float8 needs a CUDA device, this is cpu"):
        Backbone.load("bundled", dtype="float8", device="cpu")
    with pytest.raises(ArgumentError, match="float8 needs a CUDA device"):
        tiny_backbone("qwen3", dtype=torch.bfloat16).use_float8()
    with pytest.raises(ArgumentError, match="made from bfloat16 weights"):
        tiny_backbone("qwen3").use_float8(emulate=True)
    with pytest.raises(ArgumentError, match="float8 needs the fast tier, which gemma2 does not have"):
        tiny_backbone("gemma2", dtype=torch.bfloat16).use_float8(emulate=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    with pytest.raises(ArgumentError, match=r"needs compute capability 8.9 or above, A100 has 8.0"):
        loading.require_float8(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    loading.require_float8(torch.device("cuda"))


def test_the_command_line_knows_it():
    assert ExtractConfig(inputs=("x",), backbone="bundled", out="y", dtype="float8").dtype == "float8"
