"""Where the neurons of an architecture are: finds, per decoder layer, the modules whose outputs are measured.

Nothing here knows a model by name: layers are the module list as long as num_hidden_layers, and projections go by
the attribute names that the Hugging Face modeling files share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nagfast.errors import NagfastError

MLPS = ("mlp", "feed_forward", "ffn")
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")
UPS = ("up_proj", "dense_h_to_4h", "fc1", "c_fc", "w3")
FUSED_UPS = ("gate_up_proj",)
DOWNS = ("down_proj", "dense_4h_to_h", "fc2", "c_proj", "w2")
OUTS = ("o_proj", "out_proj", "dense", "c_proj")
FUSED_QKV = ("qkv_proj",)
INTERLEAVED_QKV = ("query_key_value",)

Cut = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Tap:
    """One measured projection of one layer."""

    module: nn.Module
    """Its output is measured."""
    cut: Cut
    """From the output and the sequence length to the neurons, [batch, length, N]."""
    neurons: int
    """N."""


@dataclass(frozen=True)
class GatedMlp:
    """A gated MLP with separate gate and up projections."""

    module: nn.Module
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    activation: str


def _first(owner: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((m for n in names if isinstance(m := getattr(owner, n, None), nn.Module)), None)


def _whole(x: torch.Tensor, _length: int) -> torch.Tensor:
    return x


class HeadSpread:
    """Queries, keys or values as one vector per token, key/value heads repeated to the number of query heads."""

    def __init__(self, heads: int, own: int, head_dim: int) -> None:
        self.heads, self.own, self.head_dim = heads, own, head_dim
        self.heads_first: bool | None = None

    def __call__(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """[b, t, own * d], [b, t, own, d] or [b, own, t, d] -> [b, t, heads * d]."""
        if x.ndim == 3:
            x = x.unflatten(-1, (self.own, self.head_dim))
        elif self.heads_first is None and length != self.own:
            # Gemma 3 norms after the transposition, Qwen3 before it. Told apart by the first batch (the load-time
            # check) whose length is not the number of heads, and kept.
            self.heads_first = x.shape[1] == self.own
        if self.heads_first:
            x = x.transpose(1, 2)
        return x.repeat_interleave(self.heads // self.own, dim=2).flatten(2)


def _features(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return int(module.out_features)
    if weight is not None and weight.ndim == 2:
        return int(weight.shape[-1])  # Conv1D of the GPT-2 family keeps [in, out]
    raise NagfastError(f"backbone: cannot tell the width of {type(module).__name__}")


def decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The list of decoder layers.

    Raises:
        NagfastError: there is no module list of that length.
    """
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    for candidate in found:
        if all(_first(layer, ATTENTIONS) is not None for layer in candidate):
            return candidate
    raise NagfastError(f"backbone: {type(model).__name__} has no list of {count} decoder layers with attention")


def find_mlp(layer: nn.Module) -> nn.Module:
    """The module that holds the MLP's projections: the MLP, or the layer itself (OPT)."""
    return _first(layer, MLPS) or layer


def find_down(layer: nn.Module) -> nn.Module | None:
    """The down projection, whose input is the activation."""
    return _first(find_mlp(layer), DOWNS)


def _up_tap(layer: nn.Module) -> Tap | None:
    mlp = find_mlp(layer)
    up = _first(mlp, UPS)
    if up is not None:
        return Tap(up, _whole, _features(up))
    fused = _first(mlp, FUSED_UPS)
    if fused is not None:
        half = _features(fused) // 2
        return Tap(fused, lambda x, _: x[..., half:], half)
    return None


def _linear_tap(module: nn.Module | None) -> Tap | None:
    return None if module is None else Tap(module, _whole, _features(module))


def _heads_tap(layer: nn.Module, which: str, config: Any) -> Tap | None:
    """att_q, att_k, att_v: after the q/k norm where there is one, repeated to the number of query heads."""
    attention = _first(layer, ATTENTIONS)
    if attention is None:
        return None
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
    head_dim = head_dim or config.hidden_size // heads
    plain = _first(attention, (f"{which}_proj",))
    if plain is not None:  # the projection's width tells the heads better than the configuration does
        own = _features(plain) // head_dim
    else:
        own = heads if which == "q" else kv_heads
    neurons = heads * head_dim
    spread = HeadSpread(heads, own, head_dim)
    norm = _first(attention, (f"{which}_norm", f"{which}_layernorm")) if which != "v" else None
    if norm is not None:
        return Tap(norm, spread, neurons)
    if plain is not None:
        return Tap(plain, spread, neurons)
    fused = _first(attention, FUSED_QKV)
    if fused is not None:
        begin = {"q": 0, "k": heads, "v": heads + kv_heads}[which] * head_dim
        return Tap(fused, lambda x, length: spread(x[..., begin : begin + own * head_dim], length), neurons)
    interleaved = _first(attention, INTERLEAVED_QKV)
    if interleaved is not None and _features(interleaved) == 3 * heads * head_dim:
        third = "qkv".index(which)
        return Tap(interleaved, lambda x, _: x.unflatten(-1, (heads, 3, head_dim))[..., third, :].flatten(-2), neurons)
    return None


def find_tap(layer: nn.Module, neuron_type: str, config: Any) -> Tap | None:
    """Where a neuron type of one layer is measured, or None where the architecture has no such place."""
    if neuron_type == "fwd_up":
        return _up_tap(layer)
    if neuron_type == "fwd_down":
        return _linear_tap(find_down(layer))
    if neuron_type == "att_o":
        attention = _first(layer, ATTENTIONS)
        return None if attention is None else _linear_tap(_first(attention, OUTS))
    return _heads_tap(layer, neuron_type.removeprefix("att_"), config)


def find_gated_mlp(layer: nn.Module, activations: tuple[str, ...] = ("silu",)) -> GatedMlp | None:
    """The MLP of a layer where it is down(act(gate(x)) * up(x)) with three linear projections, else None.

    Args:
        layer: a decoder layer.
        activations: the names (see activation_name) that act may have.
    """
    mlp = _first(layer, MLPS)
    if mlp is None:
        return None
    parts = [getattr(mlp, n, None) for n in ("gate_proj", "up_proj", "down_proj")]
    activation = getattr(mlp, "act_fn", None)
    if not all(type(p) is nn.Linear for p in parts) or activation is None:
        return None
    gate, up, down = parts
    assert isinstance(gate, nn.Linear) and isinstance(up, nn.Linear) and isinstance(down, nn.Linear)
    children = {n for n, _ in mlp.named_children()}
    name = activation_name(activation)
    if children != {"gate_proj", "up_proj", "down_proj", "act_fn"} or name not in activations:
        return None
    return GatedMlp(mlp, gate, up, down, name)


@dataclass(frozen=True)
class MergedMlp:
    """A gated MLP whose gate and up projections are one."""

    module: nn.Module
    gate_up: nn.Linear
    down: nn.Linear
    activation: str


def find_merged_mlp(layer: nn.Module, activations: tuple[str, ...]) -> MergedMlp | None:
    """The MLP of a layer where it has the parts of down(act(gate) * up), gate and up in one projection, else None.

    The parts do not tell which half is the gate: the caller must try it.
    """
    mlp = _first(layer, MLPS)
    if mlp is None or {n for n, _ in mlp.named_children()} != {"gate_up_proj", "down_proj", "activation_fn"}:
        return None
    gate_up, down, activation = mlp.gate_up_proj, mlp.down_proj, mlp.activation_fn
    if type(gate_up) is not nn.Linear or type(down) is not nn.Linear or not isinstance(activation, nn.Module):
        return None
    name = activation_name(activation)
    return MergedMlp(mlp, gate_up, down, name) if name in activations else None


def activation_name(activation: nn.Module) -> str:
    """silu, gelu or gelu_tanh, found by trying the function; empty where it is another one."""
    probe = torch.linspace(-4, 4, 33)
    known = {"silu": F.silu(probe), "gelu": F.gelu(probe), "gelu_tanh": F.gelu(probe, approximate="tanh")}
    try:
        found = activation(probe)
        return next((n for n, values in known.items() if torch.allclose(found, values, rtol=0, atol=1e-6)), "")
    except (RuntimeError, TypeError):
        return ""
