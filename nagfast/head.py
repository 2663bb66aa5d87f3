"""Gradient of the next-token loss by the last hidden states, without a tensor of all logits.

    z = cap * tanh(scale * (W h + b) / cap)         scale and cap where the architecture has them, else 1 and none
    dloss/dh_t = W^T (scale * (1 - (z_t / cap)^2) * (softmax(z_t) - onehot(next token)))

Rows are taken a few hundred or thousand at a time: the logits of a chunk are turned into their gradient in place and
multiplied with W. The loss itself is never computed. Tokens without a next token are left out of the products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nagfast import ops

CHUNK_ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 28}  # logits at a time
CHUNK_ROWS = (64, 4096)  # fewer starve the matrix product, more gain nothing


@dataclass(frozen=True)
class Head:
    """The projection to logits: a matrix, a factor and a soft cap."""

    weight: torch.Tensor
    """[V, hidden]."""
    bias: torch.Tensor | None
    """[V]."""
    scale: float
    """Factor on the logits."""
    cap: float | None
    """Logits become cap * tanh(logits / cap)."""

    @classmethod
    def of(cls, model: nn.Module, config: Any) -> Head | None:
        """The head as the configuration describes it; None where the output embedding is no linear projection.

        That nothing else is done to the logits is for the caller to check.
        """
        linear = model.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(linear, nn.Linear):
            return None
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return cls(linear.weight, linear.bias, scale, None if cap is None else float(cap))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states ([rows, V], in the arithmetic of the weights)."""
        out = self._scaled(hidden)
        return out if self.cap is None else out.div_(self.cap).tanh_().mul_(self.cap)

    def gradient(self, hidden: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradient of the summed cross-entropy by the hidden states ([T, hidden]).

        Args:
            hidden: [T, hidden], the input of the head.
            rows: int64 [m], the tokens that have a next token.
            labels: int64 [m], their next tokens.
        """
        out = torch.zeros_like(hidden)
        elements = CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS["cpu"])
        size = min(max(elements // self.weight.shape[0], CHUNK_ROWS[0]), CHUNK_ROWS[1])
        for picked, wanted in zip(rows.split(size), labels.split(size), strict=True):
            out[picked] = self._chunk(hidden[picked], wanted)
        return out

    def _scaled(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.mm(hidden, self.weight.t())
        if self.bias is not None:
            logits += self.bias
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def _chunk(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self._scaled(hidden)
        if self.cap is None:
            grad = ops.softmax_gradient(logits, labels)
        else:
            bent = logits.float().div_(self.cap).tanh_()
            grad = ops.softmax_gradient(bent * self.cap, labels)
            grad.addcmul_(grad * bent, bent, value=-1.0)  # times 1 - tanh^2
        if self.scale != 1.0:
            grad.mul_(self.scale)
        return torch.mm(grad.to(self.weight.dtype), self.weight)
