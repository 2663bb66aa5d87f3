"""From a name to a model and its tokenizer, and the device and arithmetic to run them in."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nagfast import env
from nagfast.errors import ArgumentError

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.bfloat16}
FLOAT8_CAPABILITY = (8, 9)


def load_model(
    name: str | Path, dtype: torch.dtype, device: torch.device, *, trust_remote_code: bool
) -> tuple[nn.Module, Any]:
    """A causal language model on the device, and its tokenizer.

    Raises:
        ArgumentError: no such model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    where: str | Path = name
    if str(name) == "bundled":
        from nagfast.bundled import MODEL

        where = MODEL
    try:
        hf_logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArgumentError(
            f"--backbone: cannot load {str(where)!r} ({first}); give a hub id or a folder with config.json, "
            "weights and tokenizer"
        ) from None
    return model.to(device), tokenizer


def pick_device(device: str) -> torch.device:
    """The device for auto, cpu, cuda or cuda:I."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        picked = torch.device("meta")
    if picked.type not in {"cpu", "cuda"}:
        raise ArgumentError(f"--device: got {device!r}; use auto, cpu, cuda or cuda:I")
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(f"--device: got {device!r}, but torch sees no CUDA device; use cpu or install a CUDA build")
    if picked.type == "cuda" and picked.index is not None and picked.index >= torch.cuda.device_count():
        raise ArgumentError(
            f"--device: got {device!r}; torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0"
        )
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The arithmetic for auto, float32, bfloat16 or float8 (bfloat16 outside the float8 products)."""
    if dtype == "auto":
        fast = device.type == "cuda" or env.has_bfloat16_matrix()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise ArgumentError(f"--dtype: got {dtype!r}; use auto, float32, bfloat16 or float8")
    if dtype == "float8":
        require_float8(device)
    elif DTYPES[dtype] is torch.bfloat16 and device.type == "cpu" and not env.has_bfloat16_matrix():
        log.warning("--dtype bfloat16: this CPU has no bfloat16 matrix instructions; float32 is faster here")
    return DTYPES[dtype]


def require_float8(device: torch.device) -> None:
    """Refuse a device without float8 matrix products.

    Raises:
        ArgumentError: the CPU, or a GPU of compute capability below 8.9.
    """
    if device.type != "cuda":
        raise ArgumentError(f"--dtype: float8 needs a CUDA device, this is {device}; use bfloat16 or float32")
    found = torch.cuda.get_device_capability(device)
    if found < FLOAT8_CAPABILITY:
        raise ArgumentError(
            f"--dtype: float8 needs compute capability 8.9 or above, {torch.cuda.get_device_name(device)} has "
            f"{found[0]}.{found[1]}; use bfloat16"
        )
