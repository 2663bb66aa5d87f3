"""The one place that checks arguments and picks a backend for the hot operations.

Backends: "reference" (plain numpy and torch, the ground truth), "cpp" (the extension nagfast._C, any x86-64 or Arm
CPU, instruction set chosen at run time), "triton" (kernels/, tensors on a GPU). "auto" takes triton for tensors on a
GPU and cpp for those on the CPU, and the reference where the op has no such kernel, triton is not installed or the
extension is not built. The environment variable NAGFAST_ISA (auto, scalar, avx2, avx512) forces the instruction set
of cpp.

Operations of the forward and backward pass take and return torch tensors on the device of their input; counting and
scoring stored NAGs take numpy arrays.
"""

from nagfast.ops.attention import causal_attention, takes_attention
from nagfast.ops.dispatch import (
    ACTIVATIONS,
    BACKENDS,
    MAX_PROFILES,
    Answer,
    asking,
    index_dtype,
    isa,
    native,
    resolve,
    resolve_for,
    thread_count,
    torch_index_dtype,
)
from nagfast.ops.impact import segment_impact, swiglu_backward, swiglu_impact
from nagfast.ops.loss import softmax_gradient
from nagfast.ops.norms import add_rms_norm, norm_rotary
from nagfast.ops.partials import Impacts, Partials, finished
from nagfast.ops.products import product
from nagfast.ops.quantize import add_rms_norm_quantized, quantize_rows
from nagfast.ops.stored import check_nags, count, score
from nagfast.ops.topk import check_broken, topk, topk_profile

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "MAX_PROFILES",
    "Answer",
    "Impacts",
    "Partials",
    "add_rms_norm",
    "add_rms_norm_quantized",
    "asking",
    "causal_attention",
    "check_broken",
    "check_nags",
    "count",
    "finished",
    "index_dtype",
    "isa",
    "native",
    "norm_rotary",
    "product",
    "quantize_rows",
    "resolve",
    "resolve_for",
    "score",
    "segment_impact",
    "softmax_gradient",
    "swiglu_backward",
    "swiglu_impact",
    "takes_attention",
    "thread_count",
    "topk",
    "topk_profile",
    "torch_index_dtype",
]
