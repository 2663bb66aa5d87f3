"""Recognises the plain pre-norm gated family (Llama, Mistral, Qwen2, Qwen3, SmolLM3, Phi-3 and their like).

    x = embed(tokens)
    x += out(attention(rotate(norm(q)), rotate(norm(k)), v))       q, k, v = qkv(rms_norm(x))
    x += down(act(gate) * up)                                      gate, up = gate_up(rms_norm(x))

Only parts are looked at: names of submodules, shapes, and how the model called its attention in a checked run. What
they compute (multipliers, another norm, another rotary embedding) is for the load-time check of the runner to find out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nagfast import ops
from nagfast.attention import Scoring
from nagfast.taps import activation_name


class NotPlainError(Exception):
    """The architecture is not of the family; says what is different."""


@dataclass(frozen=True)
class Norm:
    """An RMS norm."""

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True)
class PlainLayer:
    """One decoder layer."""

    input_norm: Norm
    qkv: tuple[nn.Linear, ...]
    """Queries, keys, values: three projections, or one that is merged already."""
    heads: int
    kv_heads: int
    head_dim: int
    query_norm: Norm | None
    """Over each head."""
    key_norm: Norm | None
    rotary: bool
    """Queries and keys are turned."""
    scoring: Scoring
    out: nn.Linear
    mlp_norm: Norm
    gate_up: tuple[nn.Linear, ...]
    """Gate and up, or one projection that holds both in this order."""
    down: nn.Linear
    activation: str

    @property
    def neurons(self) -> int:
        """N of fwd_up."""
        return self.down.in_features


@dataclass(frozen=True)
class PlainModel:
    """What the runner needs of a model."""

    embed: nn.Module
    rotary: nn.Module
    layers: list[PlainLayer]
    hidden: int


def find_plain(base: nn.Module, layers: nn.ModuleList, config: Any, scoring: Mapping[nn.Module, Scoring]) -> PlainModel:
    """The parts of a plain model.

    Args:
        base: the model without its head.
        layers: its decoder layers.
        config: its text configuration.
        scoring: how each attention layer called the registered function.

    Raises:
        NotPlainError: it has other parts.
    """
    children = _children(base)
    if set(children) != {"embed_tokens", "layers", "norm", "rotary_emb"} or children["layers"] is not layers:
        raise NotPlainError(f"the model is made of {', '.join(sorted(children))}")
    found = [_layer(layer, config, scoring) for layer in layers]
    for name in ("neurons", "heads", "kv_heads", "head_dim"):
        if len({getattr(layer, name) for layer in found}) != 1:
            raise NotPlainError(f"{name} differ between layers")
    return PlainModel(children["embed_tokens"], children["rotary_emb"], found, int(config.hidden_size))


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Submodules by name; dropouts, which do nothing in a frozen model, are left out."""
    return {n: m for n, m in module.named_children() if not isinstance(m, nn.Dropout | nn.Identity)}


def _parts(module: nn.Module, wanted: tuple[set[str], ...]) -> dict[str, nn.Module]:
    children = _children(module)
    if set(children) not in wanted:
        raise NotPlainError(f"{type(module).__name__} is made of {', '.join(sorted(children))}")
    return children


def _layer(layer: nn.Module, config: Any, scoring: Mapping[nn.Module, Scoring]) -> PlainLayer:
    parts = _parts(layer, ({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},))
    attention, mlp = parts["self_attn"], parts["mlp"]
    if attention not in scoring:
        raise NotPlainError(f"{type(attention).__name__} did not call the registered attention")
    merged = {"qkv_proj", "o_proj"}
    split = {"q_proj", "k_proj", "v_proj", "o_proj"}
    found = _parts(attention, (split, split | {"q_norm", "k_norm"}, merged))
    head_dim = getattr(attention, "head_dim", None)
    if not isinstance(head_dim, int) or head_dim % 2:
        raise NotPlainError(f"{type(attention).__name__} has no head_dim, or an odd one")
    out = _linear(found["o_proj"])
    heads = out.in_features // head_dim
    if "qkv_proj" in found:
        qkv: tuple[nn.Linear, ...] = (_linear(found["qkv_proj"]),)
        kv_heads = (qkv[0].out_features // head_dim - heads) // 2
    else:
        qkv = tuple(_linear(found[f"{n}_proj"]) for n in "qkv")
        kv_heads = qkv[1].out_features // head_dim
    if sum(x.out_features for x in qkv) != (heads + 2 * kv_heads) * head_dim or kv_heads == 0 or heads % kv_heads:
        raise NotPlainError(f"{type(attention).__name__} has projections of other widths")
    norms = [_norm(found[n], head_dim) if n in found else None for n in ("q_norm", "k_norm")]
    gate_up, down, activation = _mlp(mlp)
    return PlainLayer(
        input_norm=_norm(parts["input_layernorm"], int(config.hidden_size)),
        qkv=qkv,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        query_norm=norms[0],
        key_norm=norms[1],
        rotary=bool(getattr(attention, "use_rope", True)),
        scoring=scoring[attention],
        out=out,
        mlp_norm=_norm(parts["post_attention_layernorm"], int(config.hidden_size)),
        gate_up=gate_up,
        down=down,
        activation=activation,
    )


def _mlp(mlp: nn.Module) -> tuple[tuple[nn.Linear, ...], nn.Linear, str]:
    found = _parts(
        mlp, ({"gate_proj", "up_proj", "down_proj", "act_fn"}, {"gate_up_proj", "down_proj", "activation_fn"})
    )
    names = ("gate_proj", "up_proj") if "gate_proj" in found else ("gate_up_proj",)
    gate_up = tuple(_linear(found[n]) for n in names)
    down = _linear(found["down_proj"])
    if sum(x.out_features for x in gate_up) != 2 * down.in_features:
        raise NotPlainError(f"{type(mlp).__name__} has projections of other widths")
    activation = activation_name(found["act_fn"] if "act_fn" in found else found["activation_fn"])
    if activation not in ops.ACTIVATIONS:
        raise NotPlainError(f"{type(mlp).__name__} has another activation than {', '.join(ops.ACTIVATIONS)}")
    return gate_up, down, activation


def _linear(module: nn.Module) -> nn.Linear:
    if type(module) is not nn.Linear:
        raise NotPlainError(f"a projection is a {type(module).__name__}")
    return module


def _norm(module: nn.Module, width: int) -> Norm:
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, torch.Tensor) or weight.shape != (width,) or eps is None:
        raise NotPlainError(f"{type(module).__name__} is no RMS norm of width {width}")
    if getattr(module, "bias", None) is not None:
        raise NotPlainError(f"{type(module).__name__} has a bias")
    return Norm(weight.detach(), float(eps))
