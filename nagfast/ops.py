"""The one place that checks arguments and picks a backend for the hot operations.

Backends: "reference" (plain numpy and torch, the ground truth), "cpp" (the extension nagfast._C, any x86-64 or Arm
CPU, instruction set chosen at run time), "triton" (kernels/, tensors on a GPU). "auto" takes cpp, and reference where
the extension is not built; triton for tensors on a GPU where the op has such a kernel. The environment variable
NAGFAST_ISA (auto, scalar, avx2, avx512) forces the instruction set of cpp.
"""

from __future__ import annotations

import itertools
import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nagfast import reference
from nagfast.errors import ArgumentError, NagfastError, missing
from nagfast.schema import MAX_UINT16_NEURONS, REDUCTIONS

Array = npt.NDArray[Any]
BACKENDS = ("auto", "reference", "cpp")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
MAX_PROFILES = 32  # one row of the table stays within a cache line or two


@cache
def native() -> ModuleType | None:
    """The extension module, or None where it is not built."""
    try:
        from nagfast import _C
    except ImportError:
        return None
    return _C


def isa() -> str:
    """Instruction set asked for through NAGFAST_ISA (default auto)."""
    return os.environ.get("NAGFAST_ISA", "auto")


def resolve(backend: str = "auto") -> str:
    """The backend an op on the CPU will take: "cpp" or "reference"."""
    if backend not in BACKENDS:
        raise ArgumentError(f"backend: got {backend!r}; use one of {', '.join(BACKENDS)}")
    if backend == "cpp" and native() is None:
        raise NagfastError("backend: cpp asked for, but the extension nagfast._C is not built; pip install . builds it")
    if backend == "auto":
        return "cpp" if native() is not None else "reference"
    return backend


def resolve_for(device: torch.device, backend: str = "auto") -> str:
    """The backend an op with a Triton kernel will take: "cpp", "reference" or "triton"."""
    has_triton = find_spec("triton") is not None
    if backend == "triton" and not has_triton:
        raise missing("triton", "triton", "backend triton")
    if backend == "cpp" and device.type != "cpu":
        raise ArgumentError(f"backend: cpp takes tensors on the CPU, these are on {device}; use triton or reference")
    if backend == "triton" or (backend == "auto" and device.type != "cpu" and has_triton):
        return "triton"
    return "reference" if device.type != "cpu" else resolve(backend)


def thread_count(threads: int | None) -> int:
    """CPU threads to use: those asked for, at least 1, or as many as torch uses."""
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise ArgumentError(f"threads: got {threads}; use at least 1")
    return threads


def index_dtype(num_neurons: int) -> np.dtype[Any]:
    """uint16, or uint32 where a layer has more than 65,535 neurons."""
    return np.dtype(np.uint16 if num_neurons <= MAX_UINT16_NEURONS else np.uint32)


# --- impact (CPU tensors) ---------------------------------------------------------------------------------------------


def _native_view(x: torch.Tensor, name: str) -> Array:
    """A CPU tensor as the numpy array the extension takes: bfloat16 travels as uint16."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy()
    if x.dtype == torch.float32:
        return x.numpy()
    raise ArgumentError(f"{name}: got {x.dtype}; use float32 or bfloat16")


def _check_segments(x: torch.Tensor, cu_seqlens: Array, reduction: str) -> None:
    if x.ndim != 2:
        raise ArgumentError(f"x: got shape {list(x.shape)}; give [tokens, columns]")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1 or cu_seqlens[0] != 0 or cu_seqlens[-1] != x.shape[0]:
        raise ArgumentError(
            f"cu_seqlens: must run from 0 to the {x.shape[0]} tokens; got {cu_seqlens[:1]}..{cu_seqlens[-1:]}"
        )
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"reduction: got {reduction!r}; use one of {', '.join(REDUCTIONS)}")


def segment_impact(
    x: torch.Tensor,
    cu_seqlens: Array,
    *,
    reduction: str = "mean_abs",
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """Impact of every neuron in every document of a packed batch (float32 [n, N]).

    Args:
        x: output of the tapped projection, float32 or bfloat16 [T, N]; on another device than the CPU the reference
            runs there.
        cu_seqlens: int64 [n + 1], the documents' boundaries, from 0 to T.
        reduction: mean_abs or l2.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.
    """
    cu_seqlens = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    _check_segments(x, cu_seqlens, reduction)
    x = x.detach()
    if resolve(backend) == "reference" or x.device.type != "cpu":
        parts = [reference.impact(x[a:b].float(), reduction) for a, b in itertools.pairwise(cu_seqlens)]
        return torch.stack(parts).cpu().numpy() if parts else np.zeros((0, x.shape[1]), np.float32)
    out = np.empty((len(cu_seqlens) - 1, x.shape[1]), np.float32)
    extension = native()
    assert extension is not None
    view = _native_view(x, "x")
    extension.segment_impact(view, cu_seqlens, out, reduction=reduction, threads=thread_count(threads), isa=isa())
    return out


def swiglu_impact(
    gate_up: torch.Tensor,
    cu_seqlens: Array,
    *,
    reduction: str = "mean_abs",
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """SwiGLU in place and the impact of the up projection, in one pass over the data (float32 [n, N]).

    Args:
        gate_up: float32 or bfloat16 [T, 2N] on the CPU, the gate in columns 0..N-1, the up projection after it. On
            return the first N columns hold silu(gate) * up.
        cu_seqlens: int64 [n + 1], the documents' boundaries.
        reduction: mean_abs or l2, of the up projection.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.
    """
    cu_seqlens = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    _check_segments(gate_up, cu_seqlens, reduction)
    if gate_up.shape[1] % 2:
        raise ArgumentError(f"gate_up: got {gate_up.shape[1]} columns; give gate and up side by side, an even number")
    half = gate_up.shape[1] // 2
    if resolve(backend) == "reference":
        impacts = segment_impact(gate_up[:, half:], cu_seqlens, reduction=reduction, backend="reference")
        gate_up[:, :half] = reference.swiglu(gate_up[:, :half], gate_up[:, half:])
        return impacts
    out = np.empty((len(cu_seqlens) - 1, half), np.float32)
    extension = native()
    assert extension is not None
    view = _native_view(gate_up.detach(), "gate_up")
    extension.swiglu_impact(view, cu_seqlens, out, reduction=reduction, threads=thread_count(threads), isa=isa())
    return out


def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
    backend: str = "auto",
    threads: int | None = None,
) -> torch.Tensor:
    """Backward pass of a = act(gate) * up in place, and the activation-times-gradient impact, in one pass.

    Args:
        gate_up: float32 or bfloat16 [T, 2N], the gate in columns 0..N-1, the up projection after it. On return
            dloss/dgate and dloss/dup.
        d_act: dloss/da [T, N], of the same dtype and on the same device.
        cu_seqlens: int64 [n + 1], the documents' boundaries.
        activation: one of ACTIVATIONS; cpp does not know gelu (by the error function), auto takes the reference.
        reduction: mean_abs or l2, of a * dloss/da.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.

    Returns:
        float32 [n, N] on the device of gate_up.
    """
    cu_seqlens = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    _check_segments(gate_up, cu_seqlens, reduction)
    half = gate_up.shape[1] // 2
    if gate_up.shape[1] % 2 or d_act.shape != (gate_up.shape[0], half) or d_act.dtype != gate_up.dtype:
        raise ArgumentError(
            f"d_act: got {d_act.dtype} {list(d_act.shape)}; give {gate_up.dtype} [tokens, N] beside gate_up [tokens, "
            f"2N], which is {list(gate_up.shape)}"
        )
    if activation not in ACTIVATIONS:
        raise ArgumentError(f"activation: got {activation!r}; use one of {', '.join(ACTIVATIONS)}")
    chosen = resolve_for(gate_up.device, backend)
    if activation == "gelu" and chosen == "cpp":
        if backend == "cpp":
            raise ArgumentError("activation: cpp does not know 'gelu' (by the error function); use reference or auto")
        chosen = "reference"
    if chosen == "reference":
        gate, up = gate_up[:, :half], gate_up[:, half:]
        d_gate, d_up, product = reference.swiglu_backward(gate.float(), up.float(), d_act.float(), activation)
        gate.copy_(d_gate)
        up.copy_(d_up)
        impacts = segment_impact(product, cu_seqlens, reduction=reduction, backend="reference")
        return torch.from_numpy(impacts).to(gate_up.device)
    if chosen == "triton":
        kernel = import_module("nagfast.kernels.swiglu_backward")
        found: torch.Tensor = kernel.swiglu_backward(
            gate_up, d_act, cu_seqlens, activation=activation, reduction=reduction
        )
        return found
    out = np.empty((len(cu_seqlens) - 1, half), np.float32)
    extension = native()
    assert extension is not None
    arrays = _native_view(gate_up.detach(), "gate_up"), _native_view(d_act.detach(), "d_act")
    options = {"activation": activation, "reduction": reduction, "threads": thread_count(threads), "isa": isa()}
    extension.swiglu_backward(*arrays, cu_seqlens, out, **options)
    return torch.from_numpy(out)


def softmax_gradient(logits: torch.Tensor, labels: torch.Tensor, *, backend: str = "auto") -> torch.Tensor:
    """Gradient of the summed cross-entropy by the logits: softmax minus one-hot ([rows, V], dtype of the logits).

    Args:
        logits: float32 or bfloat16 [rows, V]; may be overwritten.
        labels: int64 [rows], on the same device.
        backend: auto, reference or triton (GPU tensors). Where it has no kernel to take, auto takes torch operations,
            in place for float32: matrix products cost so much more that C++ would not show.
    """
    if backend not in ("auto", "reference", "triton"):
        raise ArgumentError(f"backend: got {backend!r}; softmax_gradient has auto, reference and triton")
    if backend == "reference":
        return reference.softmax_gradient(logits.float(), labels).to(logits.dtype)
    if resolve_for(logits.device, backend) == "triton":
        kernel = import_module("nagfast.kernels.softmax_gradient")
        found: torch.Tensor = kernel.softmax_gradient(logits, labels)
        return found
    grad = logits.float()
    grad.sub_(grad.amax(dim=-1, keepdim=True)).exp_()
    grad.div_(grad.sum(dim=-1, keepdim=True))
    grad[torch.arange(len(labels), device=labels.device), labels] -= 1
    return grad.to(logits.dtype)


def norm_rotary(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    backend: str = "auto",
    threads: int | None = None,
) -> None:
    """RMS norm over each head and rotary embedding (halves rotated), in place and in one pass.

    Args:
        x: queries or keys, float32 [T, heads, dim] on the CPU; overwritten.
        weight: of the norm, float32 [dim]; None leaves the norm out.
        eps: added to the mean square.
        cos: float32 [T, dim].
        sin: float32 [T, dim].
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.
    """
    if resolve(backend) == "reference":
        x.copy_(reference.norm_rotary(x, weight, eps, cos, sin))
        return
    extension = native()
    assert extension is not None
    scale = None if weight is None else weight.detach().numpy()
    extension.norm_rotary(x.detach().numpy(), scale, eps, cos.numpy(), sin.numpy(), threads=thread_count(threads))


def topk(impacts: Array, k: int, *, backend: str = "auto", threads: int | None = None) -> Array:
    """Indices of the k largest per row, largest first, ties to the lower index.

    Args:
        impacts: float32 [rows, N], last dimension contiguous; not a number is refused.
        k: 1..N.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Returns:
        uint16 [rows, k], uint32 where N is above 65,535.
    """
    if impacts.ndim != 2 or impacts.dtype != np.float32:
        raise ArgumentError(f"impacts: got {impacts.dtype} {list(impacts.shape)}; give float32 [rows, N]")
    if not 1 <= k <= impacts.shape[1]:
        raise ArgumentError(f"k: got {k}; use 1 to {impacts.shape[1]}, the neurons of a layer")
    dtype = index_dtype(impacts.shape[1])
    if resolve(backend) == "reference":
        return reference.topk(impacts, k).astype(dtype)
    out = np.empty((len(impacts), k), dtype)
    extension = native()
    assert extension is not None
    try:
        extension.topk(impacts, k, out, threads=thread_count(threads), isa=isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out


def topk_tensor(impacts: torch.Tensor, k: int) -> torch.Tensor:
    """The top K of impacts where they are: on the CPU by topk, on a GPU without waiting for it.

    Args:
        impacts: float32 [rows, N], none negative; a NaN is refused on the CPU and comes first on a GPU.
        k: 1..N.

    Returns:
        int64 [rows, k] on the device of the impacts.
    """
    if impacts.device.type == "cpu":
        return torch.from_numpy(topk(impacts.numpy(), k).astype(np.int64))
    return topk_by_keys(impacts, k)


def topk_by_keys(impacts: torch.Tensor, k: int) -> torch.Tensor:
    """topk_tensor by keys (bits of the float) << 32 | (2^32 - 1 - index), so that ties go to the lower index."""
    low = (1 << 32) - 1
    index = torch.arange(impacts.shape[1], device=impacts.device)
    keys = ((impacts + 0.0).view(torch.int32).long() << 32) | (low - index)
    return low - (torch.topk(keys, k).values & low)


# --- profiles and scores ----------------------------------------------------------------------------------------------


def check_nags(nags: Array, num_layers: int, name: str = "nags") -> None:
    """Refuse what is not uint16 or uint32 [documents, num_layers, K]."""
    if nags.ndim != 3 or nags.dtype not in (np.uint16, np.uint32) or nags.shape[1] != num_layers:
        raise ArgumentError(
            f"{name}: got {nags.dtype} {list(nags.shape)}; give uint16 or uint32 [documents, {num_layers}, K]"
        )


def count(nags: Array, num_neurons: int, *, backend: str = "auto", threads: int | None = None) -> tuple[Array, int]:
    """How many documents hold each neuron (int64 [L, N]), and how many documents had a NAG.

    Args:
        nags: uint16 or uint32 [n, L, K].
        num_neurons: N.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: an index of N or more, or a neuron twice in one layer of a document.
    """
    check_nags(nags, nags.shape[1] if nags.ndim == 3 else 0)
    if resolve(backend) == "reference":
        return reference.profile_counts(nags, num_neurons)
    counts = np.zeros((nags.shape[1], num_neurons), np.int64)
    extension = native()
    assert extension is not None
    try:
        documents = extension.count(nags, counts, threads=thread_count(threads))
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return counts, int(documents)


def score(nags: Array, table: Array, *, backend: str = "auto", threads: int | None = None) -> Array:
    """Exact integer sums of table entries over each document's NAG (int64 [n, P]).

    Args:
        nags: uint16 or uint32 [n, L, K]; documents whose NAG is the sentinel score 0.
        table: uint16 or uint32 [L, N, P], P profiles side by side.
        backend: auto, reference or cpp.
        threads: CPU threads, default as many as torch uses.

    Raises:
        ArgumentError: an index of N or more.
    """
    if table.ndim != 3 or table.dtype not in (np.uint16, np.uint32):
        raise ArgumentError(f"table: got {table.dtype} {list(table.shape)}; give uint16 or uint32 [L, N, profiles]")
    check_nags(nags, table.shape[0])
    if resolve(backend) == "reference":
        columns = [reference.integer_sums(nags, table[:, :, p].astype(np.int64)) for p in range(table.shape[2])]
        return np.stack(columns, axis=1)
    out = np.empty((len(nags), table.shape[2]), np.int64)
    extension = native()
    assert extension is not None
    try:
        extension.score(nags, table, out, threads=thread_count(threads), isa=isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out
