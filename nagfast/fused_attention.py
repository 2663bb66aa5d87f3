"""Plain attention on the CPU with q/k norm and rotary embedding fused: one pass in place instead of ten.

The stock modules norm, rotate, multiply and add queries and keys in tensors of their own; at float32 that is a tenth
of a forward pass. The fused forward calls the module's own projections (their hooks fire) and the packed attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nagfast import ops, taps
from nagfast.attention import packed_attention


class FusedAttentions:
    """Replaces the forward of every plain attention of a model; taps after the q/k norm need it switched off."""

    def __init__(self, attentions: list[taps.PlainAttention]) -> None:
        self.attentions = attentions
        self.active = False
        for attention in attentions:
            attention.module.forward = self._forward_of(attention)  # type: ignore[method-assign]

    @classmethod
    def install(cls, layers: nn.ModuleList, config: Any) -> FusedAttentions | None:
        """Fuse the plain attentions among the layers; None where there are none, or the weights are not float32."""
        found = [taps.find_plain_attention(layer, config) for layer in layers]
        plain = [a for a in found if a is not None and a.query.weight.dtype == torch.float32]
        return cls(plain) if plain and ops.native() is not None else None

    def remove(self) -> None:
        """Give every attention its own forward back."""
        for attention in self.attentions:
            del attention.module.forward

    def _forward_of(self, attention: taps.PlainAttention) -> Callable[..., tuple[torch.Tensor, None]]:
        original = attention.module.forward
        module, dim = attention.module, attention.head_dim

        def turn(x: torch.Tensor, norm: Any, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            """[T, heads * dim] -> [1, heads, T, dim], normed and turned in place."""
            heads = x.view(x.shape[0], -1, dim)
            weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.variance_epsilon)
            ops.norm_rotary(heads, weight, eps, cos, sin)
            return heads.transpose(0, 1)[None]

        def forward(
            hidden_states: torch.Tensor, position_embeddings: Any = None, attention_mask: Any = None, **kwargs: Any
        ) -> tuple[torch.Tensor, None]:
            fits = self.active and position_embeddings is not None and hidden_states.shape[0] == 1
            if not fits or position_embeddings[0].shape[0] != 1 or position_embeddings[0].shape[-1] != dim:
                result: tuple[torch.Tensor, None] = original(
                    hidden_states=hidden_states,
                    position_embeddings=position_embeddings,
                    attention_mask=attention_mask,
                    **kwargs,
                )
                return result
            x = hidden_states[0]
            cos, sin = (angles[0].contiguous() for angles in position_embeddings)
            query = turn(attention.query(x), attention.query_norm, cos, sin)
            key = turn(attention.key(x), attention.key_norm, cos, sin)
            value = attention.value(x).view(x.shape[0], -1, dim).transpose(0, 1)[None]
            out, _ = packed_attention(
                module,
                query,
                key,
                value,
                None,
                scaling=module.scaling,  # type: ignore[arg-type]
                sliding_window=getattr(module, "sliding_window", None),
                softcap=getattr(module, "attn_logit_softcapping", None),
                document_runs=kwargs.get("document_runs"),
            )
            return attention.out(out.flatten(2)), None

        return forward
