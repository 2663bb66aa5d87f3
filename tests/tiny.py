"""Tiny random models of many architectures."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

BASE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
WINDOW = {"sliding_window": 16}
ARCHITECTURES = {
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "llama": GROUPED,
    "mistral": GROUPED | WINDOW,
    "ministral": GROUPED | WINDOW,
    "smollm3": GROUPED | {"no_rope_layer_interval": 2},
    "gemma2": GROUPED | WINDOW | {"query_pre_attn_scalar": 16},
    "gemma3_text": GROUPED | WINDOW | {"query_pre_attn_scalar": 16, "num_hidden_layers": 7},
    "olmo2": {"num_key_value_heads": 2},
    "olmo3": {"num_key_value_heads": 2, **WINDOW},
    "phi3": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2},
    "starcoder2": {"num_key_value_heads": 2},
    "cohere2": GROUPED | WINDOW,
    "glm4": GROUPED,
    "gpt_neox": {},
    "opt": {"ffn_dim": 160, "word_embed_proj_dim": 64},
}
FALLBACK = {"bloom": {"n_layer": 3, "n_head": 4}, "stablelm": {"num_key_value_heads": 2}}
REFUSED = {
    "mamba": {},
    "qwen3_moe": GROUPED | {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": GROUPED | {"num_local_experts": 4},
}


class NoTokenizer:
    """Stands in where only token ids are used."""

    def get_vocab(self):
        return {"a": 0}


def tiny_model(name, seed=0, dtype=torch.float32, **more):
    """A random model of an architecture, weights large enough that every layer matters; more goes to its config."""
    settings = {**ARCHITECTURES, **FALLBACK, **REFUSED}[name]
    config = AutoConfig.for_model(name, **{**BASE, **settings, **more})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.to(dtype)


def tiny_backbone(name, *, tier="auto", **kwargs):
    """A checked backbone around tiny_model."""
    from nagfast.backbone import Backbone

    backbone = Backbone(tiny_model(name, **kwargs), NoTokenizer(), name, torch.device("cpu"))
    backbone.prepare(tier=tier)
    return backbone
