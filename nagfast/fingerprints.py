"""What a backbone is, in 16 hex digits: the part of a NAG's identity that tells models and tokenizers apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

# What changes a forward pass and is not in the weights. Defaults that a library version adds do not count.
CONFIG_IDENTITY = (
    *("hidden_act", "hidden_activation", "activation_function", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "no_rope_layers", "layer_types"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window", "attn_logit_softcapping"),
    *("query_pre_attn_scalar", "attention_multiplier", "residual_multiplier", "embedding_multiplier"),
)


def model_fingerprint(model: nn.Module, config: Any) -> str:
    """SHA-256, first 16 hex digits, over the weights and the settings that a forward pass depends on.

    Of every parameter go in its name, its shape and up to 4,096 evenly spaced values, in bfloat16, so that one
    checkpoint has one fingerprint whatever it is run in; of the configuration what CONFIG_IDENTITY names.
    """
    settings = {n: getattr(config, n) for n in CONFIG_IDENTITY if getattr(config, n, None) is not None}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, -(-flat.numel() // 4096))]
        digest.update(sample.to(torch.bfloat16).view(torch.uint16).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256, first 16 hex digits, over the tokenizer's definition."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:  # padding and truncation are how a tokenizer was last called, not what it is
        fast.no_padding()
        fast.no_truncation()
    text = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
