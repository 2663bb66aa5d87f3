"""Which backend an operation takes, and what all of them need to call it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nagfast.errors import ArgumentError, NagfastError, missing
from nagfast.schema import MAX_UINT16_NEURONS

Array = npt.NDArray[Any]
BACKENDS = ("auto", "reference", "cpp")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
MAX_PROFILES = 32  # one row of the table stays within a cache line or two


@cache
def native() -> ModuleType | None:
    """The extension module, or None where it is not built."""
    try:
        from nagfast import _C
    except ImportError:
        return None
    return _C


def extension() -> ModuleType:
    """The extension module, for a backend that was resolved to cpp."""
    found = native()
    assert found is not None
    return found


def isa() -> str:
    """Instruction set asked for through NAGFAST_ISA (default auto)."""
    return os.environ.get("NAGFAST_ISA", "auto")


def resolve(backend: str = "auto") -> str:
    """The backend an op on arrays of the host will take: "cpp" or "reference"."""
    if backend not in BACKENDS:
        raise ArgumentError(f"backend: got {backend!r}; use one of {', '.join(BACKENDS)}")
    if backend == "cpp" and native() is None:
        raise NagfastError("backend: cpp asked for, but the extension nagfast._C is not built; pip install . builds it")
    if backend == "auto":
        return "cpp" if native() is not None else "reference"
    return backend


class Answer(Exception):  # noqa: N818 - not an error
    """The backend an op would take: raised in place of running it, inside `asking`."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.backend = backend


_ASKED: ContextVar[torch.device | None] = ContextVar("asked", default=None)


@contextmanager
def asking(device: torch.device) -> Iterator[None]:
    """Inside, an op on tensors raises Answer as if its tensors were on a device that this machine may not have."""
    token = _ASKED.set(device)
    try:
        yield
    finally:
        _ASKED.reset(token)


def resolve_for(device: torch.device, backend: str = "auto", *, cpp_lacks: str = "", triton_lacks: str = "") -> str:
    """The backend an op on tensors will take: "cpp", "reference" or "triton".

    Args:
        device: where the tensors are.
        backend: auto, reference, cpp or triton.
        cpp_lacks: what is asked for that the extension cannot do; auto then takes the reference.
        triton_lacks: what is asked for that there is no kernel for; likewise.
    """
    asked = _ASKED.get()
    if asked is not None:
        raise Answer(_pick(asked, backend, cpp_lacks, triton_lacks))
    return _pick(device, backend, cpp_lacks, triton_lacks)


def _pick(device: torch.device, backend: str, cpp_lacks: str, triton_lacks: str) -> str:
    lacks = {"cpp": cpp_lacks, "triton": triton_lacks}.get(backend)
    if lacks:
        raise ArgumentError(f"backend: {backend} does not know {lacks}; use reference or auto")
    if backend == "triton" and not _has_triton():
        raise missing("triton", "triton", "backend triton")
    if backend == "cpp" and device.type != "cpu":
        raise ArgumentError(f"backend: cpp takes tensors on the CPU, these are on {device}; use triton or reference")
    if backend == "triton":
        return "triton"
    if backend == "auto" and device.type != "cpu":
        return "reference" if triton_lacks or not _has_triton() else "triton"
    chosen = resolve(backend)
    return "reference" if chosen == "cpp" and cpp_lacks else chosen


def _has_triton() -> bool:
    """Whether it is installed; asked only where that decides, as the search of the path takes a while."""
    return find_spec("triton") is not None


def thread_count(threads: int | None) -> int:
    """CPU threads to use: those asked for, at least 1, or as many as torch uses."""
    if threads is None:
        return torch.get_num_threads()
    if threads < 1:
        raise ArgumentError(f"threads: got {threads}; use at least 1")
    return threads


def index_dtype(num_neurons: int) -> np.dtype[Any]:
    """uint16, or uint32 where a layer has more than 65,535 neurons."""
    return np.dtype(np.uint16 if num_neurons <= MAX_UINT16_NEURONS else np.uint32)


def torch_index_dtype(num_neurons: int) -> torch.dtype:
    """index_dtype of tensors."""
    return torch.uint16 if num_neurons <= MAX_UINT16_NEURONS else torch.uint32


def require_columns(**tensors: torch.Tensor | None) -> None:
    """Refuse tensors whose last dimension is not contiguous."""
    for name, x in tensors.items():
        if x is not None and x.shape[-1] > 1 and x.stride(-1) != 1:
            raise ArgumentError(f"{name}: columns are {x.stride(-1)} values apart; give them contiguous")


def native_view(x: torch.Tensor, name: str) -> Array:
    """A CPU tensor as the numpy array the extension takes: bfloat16 travels as uint16."""
    x = x.detach()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy()
    if x.dtype == torch.float32:
        return x.numpy()
    raise ArgumentError(f"{name}: got {x.dtype}; use float32 or bfloat16")
