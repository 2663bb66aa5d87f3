"""Models of the published sizes with random weights: the speed of a forward pass depends on its shape alone.

The numbers are those of the models' public config.json files. Weights are normal with the standard deviation the
architectures are initialised with (0.02), norms are 1; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Shape:
    """What decides the arithmetic of one decoder-only model."""

    model_type: str
    """Transformers architecture."""
    hidden: int
    """Width of the residual stream."""
    neurons: int
    """N, MLP neurons per layer."""
    layers: int
    """L."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of a head."""
    vocab: int
    """Entries of the embedding."""
    tied: bool
    """Whether lm_head shares the embedding."""
    rope_theta: float = 1e6
    """Base of the rotary embedding."""

    def flops_per_token(self, context: float = 0.0) -> float:
        """Multiply-adds times two that a projection-impact NAG needs per token.

        All layers but the last whole; of the last the attention and the up projection; no lm_head.

        Args:
            context: mean number of tokens that a token attends to; 0 leaves the attention scores out.
        """
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        one_projection = self.hidden * self.neurons
        scores = 2 * context * self.heads * self.head_dim
        return 2.0 * (self.layers * (attention + scores + 3 * one_projection) - 2 * one_projection)

    def act_grad_flops_per_token(self, context: float = 0.0) -> float:
        """The same for activation times gradient: a whole forward pass, lm_head, and the gradient of activations.

        The backward pass has one product for each of the forward pass, as weights get no gradient, and stops at the
        MLP of layer 0; attention scores take two products forward and four backward.
        """
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        scores = 2 * context * self.heads * self.head_dim
        layer = attention + scores + 3 * self.hidden * self.neurons
        backward = self.layers * (layer + scores) - (attention + 2 * scores + 2 * self.hidden * self.neurons)
        return 2.0 * (self.layers * layer + backward + 2 * self.hidden * self.vocab)

    def baseline_flops_per_token(self) -> float:
        """The same for the padded pipeline: whole layers, the up projection twice, and lm_head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return 2.0 * (self.layers * (attention + 4 * self.hidden * self.neurons) + self.hidden * self.vocab)


SHAPES = {
    "tiny": Shape("qwen3", 64, 192, 3, 4, 2, 16, 8192, tied=True),  # the vocabulary of the bundled tokenizer
    "qwen3-0.6b": Shape("qwen3", 1024, 3072, 28, 16, 8, 128, 151936, tied=True),
    "qwen3-1.7b": Shape("qwen3", 2048, 6144, 28, 16, 8, 128, 151936, tied=True),
    "qwen3-4b": Shape("qwen3", 2560, 9728, 36, 32, 8, 128, 151936, tied=True),
    "qwen3-8b": Shape("qwen3", 4096, 12288, 36, 32, 8, 128, 151936, tied=False),
    "llama-3.2-3b": Shape("llama", 3072, 8192, 28, 24, 8, 128, 128256, tied=True, rope_theta=5e5),
    "smollm3-3b": Shape("smollm3", 2048, 11008, 36, 16, 4, 128, 128256, tied=True, rope_theta=5e6),
}


def build(
    name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0, layers: int | None = None
) -> nn.Module:
    """A causal language model of a shape with random weights, in evaluation mode.

    Args:
        name: one of SHAPES.
        dtype: of the weights.
        device: where they are made.
        seed: of the weights.
        layers: fewer (or more) than the shape has.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = SHAPES[name]
    settings: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.neurons,
        "num_hidden_layers": layers or shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "max_position_embeddings": 40960,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(shape.model_type, **settings)
    with _NoInitialisation(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(0.0 if parameter_name.endswith("bias") else 1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
    return model.eval().requires_grad_(False)


class _NoInitialisation:
    """Layers are made with uninitialised weights: the library's own initialisation takes minutes on large shapes."""

    def __enter__(self) -> None:
        self._kept = (nn.Linear.reset_parameters, nn.Embedding.reset_parameters)
        nn.Linear.reset_parameters = lambda _self: None  # type: ignore[method-assign]
        nn.Embedding.reset_parameters = lambda _self: None  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        nn.Linear.reset_parameters, nn.Embedding.reset_parameters = self._kept  # type: ignore[method-assign]
