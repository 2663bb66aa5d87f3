"""The generic tier: the model's own forward pass without lm_head, hooks on what is measured, fused gated MLPs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import attention, ops, taps
from nagfast.mlp import FusedMlps
from nagfast.packing import PackedBatch
from nagfast.placing import current, equal_lengths, place, to_device
from nagfast.sinks import Measure, Sink

LAYOUTS = ("packed", "equal_length")


class GenericTier:
    """Any architecture, in one of two layouts.

    Attributes:
        layout: "packed" (documents end to end) or "equal_length" (documents of one length at a time).
        mlps: the fused MLPs, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Any,
        layers: nn.ModuleList,
        found: dict[str, list[taps.Tap]],
        device: torch.device,
    ) -> None:
        """Begin packed, with nothing fused.

        Args:
            model: the causal language model.
            config: its text configuration.
            layers: its decoder layers.
            found: per neuron type the tap of each layer.
            device: where it is.
        """
        self.model, self.config, self.layers, self.taps, self.device = model, config, layers, found, device
        self.stock_attention = config._attn_implementation
        self.layout = "packed"
        self.mlps: FusedMlps | None = None

    def set_layout(self, layout: str, *, fuse: bool = True) -> None:
        """Run in a layout from now on.

        Args:
            layout: one of LAYOUTS.
            fuse: fuse the gated MLPs where that is possible.
        """
        self.layout = layout
        self.set_attention(attention.NAME if layout == "packed" else self.stock_attention)
        if self.mlps is not None:
            self.mlps.remove()
        self.mlps = FusedMlps.install(self.layers, self.device) if fuse else None

    def set_attention(self, name: str) -> None:
        """Have transformers call another attention function."""
        self.model.set_attn_implementation(name)  # type: ignore[operator]

    @torch.inference_mode()
    def run(self, batch: PackedBatch, measure: Measure, sink: Sink) -> None:
        """Measure a batch of at least one document into a sink."""
        if self.layout == "packed":
            self._forward(self.inputs(batch), batch.cu_seqlens, slice(0, len(batch.rows)), measure, sink)
            return
        for rows, part in equal_lengths(batch):
            self._forward(self.inputs(part), part.cu_seqlens, rows, measure, sink)

    def inputs(self, batch: PackedBatch) -> dict[str, Any]:
        """What the model is called with; in the layout equal_length all documents of the batch have one length."""
        if self.layout == "packed":
            placed = place(batch, self.device)
            return {
                "input_ids": placed.ids[None],
                "position_ids": placed.positions[None],
                "documents": placed.documents,
                "use_cache": False,
            }
        ids = batch.input_ids.reshape(len(batch.rows), -1)
        return {"input_ids": to_device(ids, self.device), "use_cache": False}

    def _forward(
        self, inputs: dict[str, Any], cu_seqlens: npt.NDArray[np.int64], rows: slice, measure: Measure, sink: Sink
    ) -> None:
        with current(self.device), self._hooks(cu_seqlens, inputs["input_ids"].shape[1], rows, measure, sink):
            self.model.base_model(**inputs)  # type: ignore[operator]

    @contextmanager
    def _hooks(
        self, cu_seqlens: npt.NDArray[np.int64], length: int, rows: slice, measure: Measure, sink: Sink
    ) -> Iterator[None]:
        """Taps in place for one forward pass; fwd_up is measured inside the fused MLPs where there are any."""
        handles = []
        fused = self.mlps

        def hook(tap: taps.Tap, neuron_type: str, layer: int) -> Any:
            def measure_output(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
                x = tap.cut(output if output.ndim > 2 else output[None], length).flatten(0, 1)
                impacts = ops.segment_impact(x, cu_seqlens, reduction=measure.reduction, finish=False)
                sink.take(neuron_type, layer, rows, impacts)

            return measure_output

        try:
            for neuron_type in measure.neuron_types:
                if neuron_type == "fwd_up" and fused is not None:
                    continue
                for layer, tap in enumerate(self.taps[neuron_type]):
                    handles.append(tap.module.register_forward_hook(hook(tap, neuron_type, layer)))
            if fused is not None:
                fused.begin(
                    cu_seqlens,
                    measure.reduction,
                    (lambda layer, impacts: sink.take("fwd_up", layer, rows, impacts))
                    if "fwd_up" in measure.neuron_types
                    else None,
                    whole_last_layer="fwd_down" in measure.neuron_types,
                )
            yield
        finally:
            for handle in handles:
                handle.remove()
            if fused is not None:
                fused.end()
