"""Impact of every neuron on every document of a packed batch, alone or with the activation that it is taken from."""

from __future__ import annotations

import itertools
from importlib import import_module
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import ACTIVATIONS, isa, native_view, require_columns, resolve_for, thread_count
from nagfast.ops.partials import Impacts, of_chunks
from nagfast.schema import REDUCTIONS

Array = npt.NDArray[Any]
GELU = "'gelu' (by the error function)"  # what the extension has no code for


def _check_segments(name: str, x: torch.Tensor, cu_seqlens: Array, reduction: str) -> npt.NDArray[np.int64]:
    """The documents' boundaries as every backend takes them."""
    cu_seqlens = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    if x.ndim != 2:
        raise ArgumentError(f"{name}: got shape {list(x.shape)}; give [tokens, columns]")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1 or cu_seqlens[0] != 0 or cu_seqlens[-1] != x.shape[0]:
        raise ArgumentError(
            f"cu_seqlens: must run from 0 to the {x.shape[0]} tokens; got {cu_seqlens[:1]}..{cu_seqlens[-1:]}"
        )
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"reduction: got {reduction!r}; use one of {', '.join(REDUCTIONS)}")
    return cu_seqlens


def _check_gated(gate_up: torch.Tensor, activation: str) -> int:
    """N of gate_up [T, 2N]."""
    if gate_up.shape[1] % 2:
        raise ArgumentError(f"gate_up: got {gate_up.shape[1]} columns; give gate and up side by side, an even number")
    if activation not in ACTIVATIONS:
        raise ArgumentError(f"activation: got {activation!r}; use one of {', '.join(ACTIVATIONS)}")
    require_columns(gate_up=gate_up)
    return gate_up.shape[1] // 2


def _reference_impact(x: torch.Tensor, cu_seqlens: Array, reduction: str) -> torch.Tensor:
    parts = [reference.impact(x[a:b].float(), reduction) for a, b in itertools.pairwise(cu_seqlens)]
    return torch.stack(parts) if parts else torch.zeros((0, x.shape[1]), device=x.device)


@overload
def segment_impact(
    x: torch.Tensor,
    cu_seqlens: Array,
    *,
    reduction: str = ...,
    finish: Literal[True] = True,
    backend: str = ...,
    threads: int | None = ...,
) -> torch.Tensor: ...


@overload
def segment_impact(
    x: torch.Tensor,
    cu_seqlens: Array,
    *,
    reduction: str = ...,
    finish: bool,
    backend: str = ...,
    threads: int | None = ...,
) -> Impacts: ...


def segment_impact(
    x: torch.Tensor,
    cu_seqlens: Array,
    *,
    reduction: str = "mean_abs",
    finish: bool = True,
    backend: str = "auto",
    threads: int | None = None,
) -> Impacts:
    """Impact of every neuron in every document of a packed batch (float32 [n, N], on the device of x).

    Args:
        x: output of the tapped projection, float32 or bfloat16 [T, N].
        cu_seqlens: int64 [n + 1], the documents' boundaries, from 0 to T, on the host.
        reduction: mean_abs or l2.
        finish: False: a backend that sums by chunks of tokens (triton) returns Partials, which topk, topk_profile and
            finished take; the impacts themselves are then never written.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    cu_seqlens = _check_segments("x", x, cu_seqlens, reduction)
    x = x.detach()
    chosen = resolve_for(x.device, backend)
    if chosen == "reference":
        return _reference_impact(x, cu_seqlens, reduction)
    if chosen == "triton":
        kernel = import_module("nagfast.kernels.swiglu_impact")
        x = x if x.stride(1) == 1 else x.contiguous()
        return of_chunks(kernel.chunk_sums(x, cu_seqlens, reduction=reduction), reduction, finish)
    out = torch.empty((len(cu_seqlens) - 1, x.shape[1]), dtype=torch.float32)
    options = {"reduction": reduction, "threads": thread_count(threads), "isa": isa()}
    dispatch.extension().segment_impact(native_view(x, "x"), cu_seqlens, out.numpy(), **options)
    return out


@overload
def swiglu_impact(
    gate_up: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = ...,
    reduction: str = ...,
    finish: Literal[True] = True,
    backend: str = ...,
    threads: int | None = ...,
) -> torch.Tensor: ...


@overload
def swiglu_impact(
    gate_up: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = ...,
    reduction: str = ...,
    finish: bool,
    backend: str = ...,
    threads: int | None = ...,
) -> Impacts: ...


def swiglu_impact(
    gate_up: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
    finish: bool = True,
    backend: str = "auto",
    threads: int | None = None,
) -> Impacts:
    """Gated activation in place and the impact of the up projection, in one pass over the data.

    Args:
        gate_up: float32 or bfloat16 [T, 2N], the gate in columns 0..N-1, the up projection after it. On return the
            first N columns hold act(gate) * up, rounded once.
        cu_seqlens: int64 [n + 1], the documents' boundaries, from 0 to T, on the host.
        activation: one of ACTIVATIONS; cpp does not know gelu (by the error function), auto takes the reference.
        reduction: mean_abs or l2, of the up projection.
        finish: False: a backend that sums by chunks of tokens (triton) returns Partials, which topk, topk_profile and
            finished take; the impacts themselves are then never written.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.

    Returns:
        float32 [n, N] on the device of gate_up.
    """
    cu_seqlens = _check_segments("gate_up", gate_up, cu_seqlens, reduction)
    half = _check_gated(gate_up, activation)
    lacks = GELU if activation == "gelu" else ""
    chosen = resolve_for(gate_up.device, backend, cpp_lacks=lacks)
    if chosen == "triton":
        kernel = import_module("nagfast.kernels.swiglu_impact")
        found = kernel.chunk_sums(gate_up, cu_seqlens, activation=activation, reduction=reduction)
        return of_chunks(found, reduction, finish)
    if chosen == "reference":
        gate, up = gate_up[:, :half], gate_up[:, half:]
        impacts = _reference_impact(up, cu_seqlens, reduction)
        gate.copy_(reference.swiglu(gate.float(), up.float(), activation))
        return impacts
    out = torch.empty((len(cu_seqlens) - 1, half), dtype=torch.float32)
    options = {"activation": activation, "reduction": reduction, "threads": thread_count(threads), "isa": isa()}
    dispatch.extension().swiglu_impact(native_view(gate_up, "gate_up"), cu_seqlens, out.numpy(), **options)
    return out


@overload
def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = ...,
    reduction: str = ...,
    finish: Literal[True] = True,
    backend: str = ...,
    threads: int | None = ...,
) -> torch.Tensor: ...


@overload
def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = ...,
    reduction: str = ...,
    finish: bool,
    backend: str = ...,
    threads: int | None = ...,
) -> Impacts: ...


def swiglu_backward(
    gate_up: torch.Tensor,
    d_act: torch.Tensor,
    cu_seqlens: Array,
    *,
    activation: str = "silu",
    reduction: str = "mean_abs",
    finish: bool = True,
    backend: str = "auto",
    threads: int | None = None,
) -> Impacts:
    """Backward pass of a = act(gate) * up in place, and the activation-times-gradient impact, in one pass.

    Args:
        gate_up: float32 or bfloat16 [T, 2N], the gate in columns 0..N-1, the up projection after it. On return
            dloss/dgate and dloss/dup.
        d_act: dloss/da [T, N], of the same dtype and on the same device.
        cu_seqlens: int64 [n + 1], the documents' boundaries, from 0 to T, on the host.
        activation: one of ACTIVATIONS; cpp does not know gelu (by the error function), auto takes the reference.
        reduction: mean_abs or l2, of a * dloss/da.
        finish: False: a backend that sums by chunks of tokens (triton) returns Partials, which topk, topk_profile and
            finished take; the impacts themselves are then never written.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.

    Returns:
        float32 [n, N] on the device of gate_up.
    """
    cu_seqlens = _check_segments("gate_up", gate_up, cu_seqlens, reduction)
    half = _check_gated(gate_up, activation)
    if d_act.shape != (gate_up.shape[0], half) or d_act.dtype != gate_up.dtype:
        raise ArgumentError(
            f"d_act: got {d_act.dtype} {list(d_act.shape)}; give {gate_up.dtype} [tokens, N] beside gate_up [tokens, "
            f"2N], which is {list(gate_up.shape)}"
        )
    require_columns(d_act=d_act)
    lacks = GELU if activation == "gelu" else ""
    chosen = resolve_for(gate_up.device, backend, cpp_lacks=lacks)
    if chosen == "reference":
        gate, up = gate_up[:, :half], gate_up[:, half:]
        d_gate, d_up, product = reference.swiglu_backward(gate.float(), up.float(), d_act.float(), activation)
        gate.copy_(d_gate)
        up.copy_(d_up)
        return _reference_impact(product, cu_seqlens, reduction)
    if chosen == "triton":
        kernel = import_module("nagfast.kernels.swiglu_backward")
        sums = kernel.swiglu_backward(gate_up, d_act, cu_seqlens, activation=activation, reduction=reduction)
        return of_chunks(sums, reduction, finish)
    out = torch.empty((len(cu_seqlens) - 1, half), dtype=torch.float32)
    arrays = native_view(gate_up, "gate_up"), native_view(d_act, "d_act")
    options = {"activation": activation, "reduction": reduction, "threads": thread_count(threads), "isa": isa()}
    dispatch.extension().swiglu_backward(*arrays, cu_seqlens, out.numpy(), **options)
    return out
