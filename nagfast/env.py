"""What this machine is: versions, commit, processor features, devices."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc

PACKAGES = ("torch", "transformers", "triton", "numpy", "pyarrow", "duckdb", "tokenizers", "faiss-cpu", "datasketch")


def version(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def versions() -> dict[str, str]:
    """Versions of nagfast and of the packages it builds on, those that are installed."""
    found = {name: version(name) for name in ("nagfast", *PACKAGES)}
    return {name: value for name, value in found.items() if value} | {"python": platform.python_version()}


def core_versions() -> dict[str, str]:
    """The versions that can change a number: recorded with every NAG."""
    return {k: v for k, v in versions().items() if k in {"nagfast", "torch", "transformers", "tokenizers", "triton"}}


@cache
def git_state() -> dict[str, Any]:
    """Commit of the checkout nagfast runs from, and whether tracked files differ from it."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


@cache
def cpu_flags() -> frozenset[str]:
    """Processor features as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next(
        (frozenset(line.split(":", 1)[1].split()) for line in lines if line.startswith(("flags", "Features"))),
        frozenset(),
    )


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def has_bfloat16_matrix() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AVX-512 BF16, AMX or Arm BF16)."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


@cache
def mkl_leaves_avx512_idle() -> bool:
    """Whether this CPU has AVX-512 and is not Intel's: MKL takes its AVX-512 code on Intel's processors only."""
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return not intel and {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= cpu_flags()


def cpu_count() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_budget() -> int:
    """A quarter of the memory this process may use, in bytes (at least 256 MiB)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(total // 4, 256 << 20)


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed blocks for reuse instead of giving them back to the system.

    A forward pass on the CPU frees and asks for the same tens of megabytes in every layer; by default each round trip
    costs page faults (benchmarks/LOG.md: a fifth of the time at 2,040 tokens a step). Process-wide, so only programs
    that own their process call it: the nagfast command and the benchmarks do.

    Returns:
        Whether the C library took the setting (glibc does).
    """
    return _mallopt(1 << 30, (1 << 31) - 1)


def give_back_freed_memory() -> bool:
    """Undo keep_freed_memory: the thresholds that glibc's own adjustment ends at in a process with large blocks."""
    return _mallopt(32 << 20, 64 << 20)


def _mallopt(mmap_threshold: int, trim_threshold: int) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold))


def machine() -> dict[str, Any]:
    """Hardware and software in one record, as benchmark results and `nagfast doctor` print it."""
    record: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "platform": platform.platform(),
        "versions": versions(),
        **git_state(),
    }
    if version("torch"):
        import torch

        if torch.cuda.is_available():
            record["gpu"] = torch.cuda.get_device_name()
    return record
