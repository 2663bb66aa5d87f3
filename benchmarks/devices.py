"""What timing on a device needs: waiting for it, its peak memory, and giving memory back."""

from __future__ import annotations

import gc
import resource
import sys

import torch


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given; the CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def reset_peak(device: str) -> None:
    """Start anew with the peak of device memory."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int | None:
    """Most bytes of tensors on the device since reset_peak, weights included; None on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release(device: str) -> None:
    """Give cached memory back after a call that ran out."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
