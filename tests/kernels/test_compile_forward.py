"""The kernels of the forward pass compile ahead of time for sm_90, without spills, to loads and stores of 16 bytes."""

from importlib import import_module

import pytest
from compiling import compile_kernel

from nagfast.kernels import chunks, norm_rotary, quantize, rms_norm, rows, swiglu_backward, swiglu_impact, topk

PASSES = [("silu", "*bf16"), ("gelu", "*bf16"), ("gelu_tanh", "*bf16"), (None, "*bf16"), ("silu", "*fp32")]


def check(compiled, registers):
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert compiled.registers <= registers


def of_integers(*names):
    return dict.fromkeys(names, "i32")


def split(arguments):
    """Signature and constants: what is not wanted is None, a constant."""
    signature = {name: kind for name, kind in arguments.items() if kind is not None}
    return signature, {name: None for name, kind in arguments.items() if kind is None}


@pytest.mark.parametrize(("activation", "pointer"), PASSES)
def test_swiglu_impact(activation, pointer):
    strides = of_integers("row_stride", "neurons")
    signature = {"x": pointer, "starts": "*i64", "ends": "*i64", "sums": "*fp32", **strides}
    constants = {"activation": activation, "squares": activation == "gelu"}
    constants |= {"token_tile": chunks.TOKENS, "neuron_tile": chunks.NEURONS}
    kernel = swiglu_impact.swiglu_impact_chunk_kernel
    compiled = compile_kernel(kernel, signature, constants, aligned=strides, options=chunks.OPTIONS)
    check(compiled, 80)  # six programs of 128 threads on a multiprocessor
    # A thread holds 16 values of a tile: two vectors of 8 bfloat16, four of 4 float32; gate and up are read.
    vectors = 2 if pointer == "*bf16" else 4
    assert compiled.instructions("LDG.E.128") == (1 if activation is None else 2) * vectors
    assert compiled.instructions("STG.E.128") == (0 if activation is None else vectors)


@pytest.mark.parametrize(
    ("k", "chunked", "profiles", "nags"), [(32, True, 1, None), (64, False, 32, "*u16"), (2, True, 0, "*u32")]
)
def test_topk(k, chunked, profiles, nags):
    integers = of_integers("value_stride", "nag_stride", "neurons", "top_k", "profiles")
    chunk = "*i64" if chunked else None
    table, sums = ("*i32", "*i64") if profiles else (None, None)
    arguments = {"values": "*fp32", "of_document": chunk, "lengths": chunk, "nags": nags, "table": table, "sums": sums}
    signature, constants = split(arguments | {"broken": "*i32"} | integers)
    constants |= {"squares": k == 64, "k_tile": k, "profile_tile": max(1, profiles), "block": topk.BLOCK}
    aligned = ("value_stride", "neurons")
    compiled = compile_kernel(topk.topk_kernel, signature, constants, aligned=aligned, options=topk.OPTIONS)
    check(compiled, 128)  # four programs of 128 threads on a multiprocessor
    assert compiled.instructions("LDG.E.128") >= 2  # 8 impacts a thread
    assert compiled.shared <= 4096


@pytest.mark.parametrize("pointer", ["*bf16", "*fp32"])
@pytest.mark.parametrize("width", [2048, rows.MAX_WIDTH])
def test_add_rms_norm(width, pointer):
    tile, options = rows.row_options(width)
    integers = of_integers("x_stride", "residual_stride", "out_stride", "width")
    arguments = {"x": pointer, "residual": pointer, "weight": pointer, "out": pointer, "scale": None}
    signature, constants = split(arguments | integers | {"eps": "fp32"})
    constants |= {"tile": tile}
    compiled = compile_kernel(rms_norm.add_rms_norm_kernel, signature, constants, aligned=integers, options=options)
    check(compiled, 40 if width == 2048 else 96)
    vectors = tile * (2 if pointer == "*bf16" else 4) // (16 * 32 * options["num_warps"])
    assert compiled.instructions("LDG.E.128") == 3 * vectors
    assert compiled.instructions("STG.E.128") == 2 * vectors


def test_rows_in_eight_bits():
    tile, options = rows.row_options(2048)
    integers = of_integers("x_stride", "residual_stride", "out_stride", "width")
    signature = {"x": "*bf16", "residual": "*bf16", "weight": "*bf16", "out": "*fp8e4nv", "scale": "*fp32"}
    kernel, last = rms_norm.add_rms_norm_kernel, {"eps": "fp32"}
    check(compile_kernel(kernel, signature | integers | last, {"tile": tile}, aligned=integers, options=options), 64)
    tile, options = rows.row_options(rows.MAX_WIDTH)
    integers = of_integers("x_stride", "width")
    signature = {"x": "*bf16", "out": "*fp8e4nv", "scale": "*fp32"}
    compiled = compile_kernel(
        quantize.quantize_rows_kernel, signature | integers, {"tile": tile}, aligned=integers, options=options
    )
    check(compiled, 64)
    assert compiled.instructions("LDG.E.128") == 4
    assert compiled.instructions("STG.E.128") == 2


@pytest.mark.parametrize(("pointer", "heads", "dim"), [("*bf16", 16, 128), ("*bf16", 8, 64), ("*fp32", 32, 128)])
def test_norm_rotary(pointer, heads, dim):
    tiles, options = norm_rotary.head_options(heads, dim)
    integers = of_integers("token_stride", "heads", "half")
    signature = {"x": pointer, "weight": pointer, "cos": pointer, "sin": pointer, **integers, "eps": "fp32"}
    kernel, aligned = norm_rotary.norm_rotary_kernel, ("token_stride", "half")
    compiled = compile_kernel(kernel, signature, tiles, aligned=aligned, options=options)
    check(compiled, 96)
    vectors = 2 if pointer == "*bf16" else 4  # 8 values a thread of each half
    assert compiled.instructions("STG.E.128") == vectors
    assert compiled.instructions("LDG.E.128") >= vectors


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        (swiglu_impact.swiglu_impact_chunk_kernel, {"starts", "ends"}),
        (swiglu_backward.swiglu_backward_chunk_kernel, {"starts", "ends"}),
        (chunks.impact_finish_kernel, {"of_document", "lengths"}),
        (topk.topk_kernel, {"of_document", "lengths", "nags", "sums"}),
    ],
)
def test_a_batch_of_other_size_does_not_compile_anew(kernel, names):
    """Parts of the tables and rows of the NAGs begin at any multiple of their own size (unknown names are no error)."""
    assert {parameter.name for parameter in kernel.params if parameter.do_not_specialize_on_alignment} == names


def test_ops_know_the_limits_of_the_kernels():
    limits = import_module("nagfast.ops.topk").KERNEL_K, import_module("nagfast.ops.norms").KERNEL_WIDTH
    assert limits == (topk.MAX_K, rows.MAX_WIDTH)
