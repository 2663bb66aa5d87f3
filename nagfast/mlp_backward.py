"""MLPs that measure |a * dloss/da| as the backward pass goes through them, a being the input of the down projection.

A gated MLP becomes one autograd node that keeps nothing but the gate and up products. Its backward pass turns them into
their own gradients in place while it measures, and needs no gradient of any weight:

    forward    gate_up = x W_gate_up^T       out = down(act(gate) * up)
    backward   d_act = d_out W_down          gate_up <- its gradient, impact <- |act(gate) * up * d_act|
               d_x = gate_up W_gate_up

Any other MLP runs as it is, with a node in front of its down projection that keeps the activation and measures. Both
nodes take an anchor that requires a gradient: the graph begins at the first of them, and what lies before is not
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import ops, taps
from nagfast.merging import merge

PROBE_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}


@dataclass(frozen=True)
class GatedMlp:
    """What the fused node needs of down(act(gate) * up)."""

    module: nn.Module
    weight: torch.Tensor
    """Gate, then up, [2N, hidden]."""
    down: nn.Linear
    activation: str

    @property
    def neurons(self) -> int:
        """N."""
        return self.weight.shape[0] // 2


@dataclass(frozen=True)
class Site:
    """Where one layer is measured."""

    down: nn.Module
    gated: GatedMlp | None
    """None: in front of the down projection."""


@dataclass
class Sweep:
    """One forward and backward pass."""

    cu_seqlens: npt.NDArray[np.int64]
    """int64 [n + 1] over the flattened tokens."""
    reduction: str
    """mean_abs or l2."""
    keep: Callable[[int, torch.Tensor], None]
    """Called with (layer, float32 [n, N]), last layer first."""
    anchor: torch.Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Where the graph begins."""
    scratch: torch.Tensor | None = None
    """One [T, N] buffer for what does not outlive a node."""

    def buffer(self, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """[rows, columns] that the next call overwrites."""
        size = rows * columns
        if self.scratch is None or self.scratch.numel() < size:
            self.scratch = torch.empty(size, dtype=like.dtype, device=like.device)
        return self.scratch[:size].view(rows, columns)


def find_site(layer: nn.Module) -> Site | None:
    """How a layer is measured; None where it has no down projection."""
    down = taps.find_down(layer)
    if down is None:
        return None
    gated = _find_gated(layer)
    return Site(down, gated if gated is not None and _agrees(gated) else None)


def _find_gated(layer: nn.Module) -> GatedMlp | None:
    plain = taps.find_gated_mlp(layer, ops.ACTIVATIONS)
    if plain is not None and plain.gate.bias is None and plain.up.bias is None:
        return GatedMlp(plain.module, merge(plain.gate, plain.up), plain.down, plain.activation)
    merged = taps.find_merged_mlp(layer, ops.ACTIVATIONS)
    if merged is not None and merged.gate_up.bias is None:
        return GatedMlp(merged.module, merged.gate_up.weight, merged.down, merged.activation)
    return None


@torch.no_grad()
def _agrees(mlp: GatedMlp) -> bool:
    """Whether the fused forward is the module's own, tried on a few random tokens."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, mlp.weight.shape[1], generator=generator).to(mlp.weight)
    gate_up = torch.mm(x, mlp.weight.t())
    found = mlp.down(_activate(gate_up, mlp, torch.empty_like(gate_up[:, : mlp.neurons])))
    expected = mlp.module(x[None])[0]
    limit = PROBE_TOLERANCE.get(expected.dtype, 0.03) * expected.abs().max()
    return bool(((found - expected).abs() <= limit).all())


def _activate(gate_up: torch.Tensor, mlp: GatedMlp, out: torch.Tensor) -> torch.Tensor:
    """act(gate) * up in `out`."""
    gate, up = gate_up.chunk(2, dim=1)
    if mlp.activation == "silu":
        torch.ops.aten.silu.out(gate, out=out)
    else:
        torch.ops.aten.gelu.out(gate, approximate="tanh" if mlp.activation == "gelu_tanh" else "none", out=out)
    return out.mul_(up)


class _Gated(torch.autograd.Function):
    """The fused node."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, _anchor: torch.Tensor, mlp: GatedMlp, layer: int, sweep: Sweep
    ) -> torch.Tensor:
        gate_up = torch.mm(x.flatten(0, -2), mlp.weight.t())
        act = _activate(gate_up, mlp, sweep.buffer(len(gate_up), mlp.neurons, gate_up))
        ctx.save_for_backward(gate_up)
        ctx.mlp, ctx.layer, ctx.sweep = mlp, layer, sweep
        out: torch.Tensor = mlp.down(act)
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, d_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (gate_up,), mlp, sweep = ctx.saved_tensors, ctx.mlp, ctx.sweep
        d_act = sweep.buffer(len(gate_up), mlp.neurons, gate_up)
        torch.mm(d_out.flatten(0, -2), mlp.down.weight, out=d_act)
        impacts = ops.swiglu_backward(
            gate_up, d_act, sweep.cu_seqlens, activation=mlp.activation, reduction=sweep.reduction
        )
        sweep.keep(ctx.layer, impacts)
        d_x = torch.mm(gate_up, mlp.weight).unflatten(0, d_out.shape[:-1]) if ctx.needs_input_grad[0] else None
        return d_x, None, None, None, None


class _Watch(torch.autograd.Function):
    """The identity, which measures its input times the gradient that comes back."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, _anchor: torch.Tensor, layer: int, sweep: Sweep) -> torch.Tensor:
        ctx.save_for_backward(a)
        ctx.layer, ctx.sweep = layer, sweep
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, d_a: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (a,), sweep = ctx.saved_tensors, ctx.sweep
        product = (a.float() * d_a.float()).flatten(0, -2)
        impacts = ops.segment_impact(product, sweep.cu_seqlens, reduction=sweep.reduction)
        sweep.keep(ctx.layer, impacts)
        return d_a if ctx.needs_input_grad[0] else None, None, None, None


@contextmanager
def measured(sites: Sequence[Site], sweep: Sweep) -> Iterator[None]:
    """Every layer's MLP measures inside; afterwards the modules are as they were."""
    handles = []
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for layer, site in enumerate(sites):
            if site.gated is None:
                handles.append(site.down.register_forward_pre_hook(_watcher(layer, sweep)))
                continue
            module = site.gated.module
            replaced.append((module, vars(module).get("forward")))
            module.forward = _forward_of(site.gated, layer, sweep)  # type: ignore[method-assign]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, before in replaced:
            if before is None:
                del module.forward
            else:
                module.forward = before


def _forward_of(mlp: GatedMlp, layer: int, sweep: Sweep) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Gated.apply(x, sweep.anchor, mlp, layer, sweep)
        return out

    return forward


def _watcher(layer: int, sweep: Sweep) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_Watch.apply(arguments[0], sweep.anchor, layer, sweep), *arguments[1:])

    return hook
