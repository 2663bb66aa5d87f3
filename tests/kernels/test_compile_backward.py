"""The kernels of the backward pass compile ahead of time for sm_90, without spills, to loads and stores of 16 bytes."""

import pytest
from compiling import compile_kernel

from nagfast.kernels import chunks, softmax_gradient
from nagfast.kernels import swiglu_backward as kernel

ACTIVATIONS = ["silu", "gelu", "gelu_tanh"]
STRIDES = ("row_stride", "d_stride", "neurons")


def compile_chunks(activation, pointer, reduction="mean_abs", aligned=STRIDES):
    signature = {"gate_up": pointer, "d_act": pointer, "starts": "*i64", "ends": "*i64", "sums": "*fp32"}
    signature |= dict.fromkeys(STRIDES, "i32")
    constants = {"activation": activation, "squares": reduction == "l2"}
    constants |= {"token_tile": chunks.TOKENS, "neuron_tile": chunks.NEURONS}
    return compile_kernel(
        kernel.swiglu_backward_chunk_kernel, signature, constants, aligned=aligned, options=chunks.OPTIONS
    )


@pytest.mark.parametrize("pointer", ["*bf16", "*fp32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_does_not_spill(activation, pointer):
    compiled = compile_chunks(activation, pointer, "l2" if activation == "gelu" else "mean_abs")
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert compiled.registers <= 128  # 16 warps of 32 threads share 65,536 registers
    # A thread holds 16 values of a tile: two vectors of 8 bfloat16, four of 4 float32; gate, up and d_act are read.
    vectors = 2 if pointer == "*bf16" else 4
    assert compiled.instructions("LDG.E.128") == 3 * vectors
    assert compiled.instructions("STG.E.128") == 2 * vectors


def test_neurons_that_are_no_multiple_of_16_do_not_spill():
    compiled = compile_chunks("silu", "*bf16", aligned=())
    assert (compiled.spills, compiled.stack) == (0, 0)


def test_finishing_does_not_spill():
    signature = {"sums": "*fp32", "of_document": "*i64", "lengths": "*i64", "impact": "*fp32", "neurons": "i32"}
    constants = {"squares": True, "neuron_tile": chunks.NEURONS}
    compiled = compile_kernel(
        chunks.impact_finish_kernel, signature, constants, aligned=("neurons",), options=chunks.OPTIONS
    )
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert compiled.registers <= 64


@pytest.mark.parametrize(("pointer", "vectors"), [("*bf16", 2), ("*fp32", 4)])
def test_softmax_gradient_does_not_spill(pointer, vectors):
    signature = {"logits": pointer, "labels": "*i64", "row_stride": "i32", "vocabulary": "i32"}
    compiled = compile_kernel(
        softmax_gradient.softmax_gradient_kernel,
        signature,
        {"block": softmax_gradient.BLOCK},
        aligned=("row_stride", "vocabulary"),
        options=softmax_gradient.OPTIONS,
    )
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert compiled.registers <= 96  # two programs of 256 threads and more on a multiprocessor
    # Two passes read 16 values a thread; one writes them.
    assert compiled.instructions("LDG.E.128") == 2 * vectors
    assert compiled.instructions("STG.E.128") == vectors
