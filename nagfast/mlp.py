"""Gated MLPs of any architecture with activation and impact fused: one pass over the gate and up products, not five.

The gate and up weights are laid side by side once (merging.py), and one matrix product fills a buffer that is kept
between layers and batches: on the CPU, fresh memory for a [tokens, 2N] result costs page faults that take about as
long as the arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import ops, taps
from nagfast.merging import merge

Keep = Callable[[int, torch.Tensor], None]


class FusedMlps:
    """Replaces the forward of every gated MLP of a model; measures fwd_up on the way."""

    def __init__(self, mlps: list[taps.GatedMlp]) -> None:
        self.mlps = mlps
        self.weights = [merge(m.gate, m.up) for m in mlps]
        self.neurons = mlps[0].up.out_features
        self.buffer = torch.empty(0)
        self.cu_seqlens = np.zeros(1, np.int64)
        self.reduction = "mean_abs"
        self.keep: Keep | None = None
        self.whole_last_layer = True
        self.active = False
        self.originals: list[Callable[[torch.Tensor], torch.Tensor]] = [m.module.forward for m in mlps]
        for layer, mlp in enumerate(mlps):
            mlp.module.forward = self._forward_of(layer, mlp)  # type: ignore[method-assign]

    @classmethod
    def install(cls, layers: nn.ModuleList, device: torch.device) -> FusedMlps | None:
        """Fuse all MLPs of the layers; None where one is not act(gate) * up of three plain projections.

        On the CPU also None without the extension: the reference would be slower than the modules.
        """
        found = [taps.find_gated_mlp(layer, ops.ACTIVATIONS) for layer in layers]
        whole = [m for m in found if m is not None]
        if len(whole) != len(found) or (device.type == "cpu" and ops.native() is None):
            return None
        if len({m.up.out_features for m in whole}) != 1 or any(m.up.bias is not None for m in whole):
            return None
        return cls(whole)

    def remove(self) -> None:
        """Give every MLP its own forward back."""
        for mlp in self.mlps:
            del mlp.module.forward

    def begin(
        self, cu_seqlens: npt.NDArray[np.int64], reduction: str, keep: Keep | None, *, whole_last_layer: bool
    ) -> None:
        """Set what the next forward pass measures.

        Args:
            cu_seqlens: int64 [n + 1] over the flattened tokens.
            reduction: mean_abs or l2.
            keep: called with (layer, float32 [n, N]); None measures nothing.
            whole_last_layer: the last MLP's output is needed (it is not for fwd_up alone).
        """
        self.cu_seqlens, self.reduction, self.keep = cu_seqlens, reduction, keep
        self.whole_last_layer = whole_last_layer
        self.active = True

    def end(self) -> None:
        """Back to plain forwards."""
        self.active, self.keep = False, None

    def _forward_of(self, layer: int, mlp: taps.GatedMlp) -> Callable[[torch.Tensor], torch.Tensor]:
        original = self.originals[layer]
        last = layer == len(self.mlps) - 1

        def forward(x: torch.Tensor) -> torch.Tensor:
            if not self.active:
                return original(x)
            flat = x.flatten(0, -2)
            if last and not self.whole_last_layer:
                if self.keep is not None:
                    up = self._product(flat, self.weights[layer][self.neurons :])
                    self.keep(layer, ops.segment_impact(up, self.cu_seqlens, reduction=self.reduction))
                return x
            gate_up = self._product(flat, self.weights[layer])
            impacts = ops.swiglu_impact(gate_up, self.cu_seqlens, activation=mlp.activation, reduction=self.reduction)
            if self.keep is not None:
                self.keep(layer, impacts)
            out: torch.Tensor = mlp.down(gate_up[:, : self.neurons])
            return out.view(x.shape)

        return forward

    def _product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """X @ weight.T ([tokens, rows of weight]), in the kept buffer where the product can be told where."""
        size = x.shape[0] * weight.shape[0]
        if self.buffer.numel() < size or self.buffer.dtype != x.dtype or self.buffer.device != x.device:
            self.buffer = torch.empty(size, dtype=x.dtype, device=x.device)
        out = self.buffer[:size].view(x.shape[0], weight.shape[0])
        return ops.product(x, weight, out=out)
