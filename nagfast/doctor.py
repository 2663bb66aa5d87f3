"""`nagfast doctor`: what this machine has, which backend every operation takes on the CPU and on a GPU, and why."""

from __future__ import annotations

import platform
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from nagfast import config as configs
from nagfast import env, ops, varlen
from nagfast.commands import say
from nagfast.errors import ArgumentError
from nagfast.loading import require_float8

WIDTH = 118
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EXTRAS = {
    "faiss-cpu": (("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"), "index build --method faiss"),
    "minhash": (("datasketch",), "exchange of MinHash signatures"),
    "analysis": (("scikit-learn", "matplotlib"), "tsne"),
    "triton": (("triton",), "kernels on a GPU"),
}
"""Extra -> packages, and the commands that need them; of the faiss packages one is enough."""
BASE = {"duckdb": "select, --where", "zstandard": "text in .zst files"}
"""Packages that some commands need and the engine does not."""
TORCH_ON_CPU = frozenset({"softmax_gradient"})
"""What the extension has no function for, whichever backend is asked for."""
ANY_OF = frozenset({"faiss-cpu"})


def _calls() -> dict[str, Callable[[], object]]:
    """Every operation on tensors, called on as little as its checks take."""
    one = np.array([0, 1], np.int64)
    wide, narrow = torch.zeros((1, 128)), torch.zeros((1, 64))
    heads, angles = torch.zeros((1, 1, 64)), torch.zeros((1, 64))
    table, sums = torch.zeros((64, 1), dtype=torch.int32), torch.zeros((1, 1), dtype=torch.int64)
    return {
        "swiglu_impact": lambda: ops.swiglu_impact(wide, one),
        "segment_impact": lambda: ops.segment_impact(narrow, one),
        "topk": lambda: ops.topk(narrow, 4),
        "topk_profile": lambda: ops.topk_profile(narrow, 4, table, sums),
        "add_rms_norm": lambda: ops.add_rms_norm(narrow, None, narrow[0], 1e-6),
        "norm_rotary": lambda: ops.norm_rotary(heads, None, 1e-6, angles, angles),
        "causal_attention": lambda: ops.causal_attention(heads, heads, heads, one, scale=1.0),
        "swiglu_backward": lambda: ops.swiglu_backward(wide, narrow, one),
        "softmax_gradient": lambda: ops.softmax_gradient(narrow, torch.zeros(1, dtype=torch.int64)),
    }


def backend_of(name: str, device: torch.device) -> str:
    """The backend an operation on tensors takes on a device: cpp, triton or reference.

    Args:
        name: a key of the table that `nagfast doctor` prints.
        device: need not be there.
    """
    try:
        with ops.asking(device):
            _calls()[name]()
    except ops.Answer as answer:
        return "reference" if answer.backend == "cpp" and name in TORCH_ON_CPU else answer.backend
    raise AssertionError(f"{name} ran without asking for a backend")


def _why(backend: str, device: torch.device) -> str:
    if backend == "cpp":
        extension = ops.native()
        return f"nagfast._C, {extension.resolve_isa(ops.isa())}" if extension else ""
    if backend == "triton":
        return f"triton {env.version('triton')}"
    if device.type == "cpu":
        return "nagfast._C is not built" if ops.native() is None else "torch operations, no C++"
    return "torch operations, no kernel" if env.version("triton") else "torch operations, triton is not installed"


def _say_operations() -> None:
    say(f"{'operation':20s}{'on the CPU':48s}on a GPU")
    varying = f"varlen_attn of torch {env.version('torch')}" if varlen.torch_function() else "SDPA by lengths"
    for name in _calls():
        here, there = ((b, d) for d in (CPU, CUDA) for b in [backend_of(name, d)])
        on_gpu = varying if name == "causal_attention" else f"{there[0]}: {_why(*there)}"
        say(f"  {name:18s}{here[0] + ': ' + _why(*here):48s}{on_gpu}")
    stored = ops.resolve("auto")
    for name in ("count", "score"):
        say(f"  {name:18s}{stored + ': ' + _why(stored, CPU):48s}stored NAGs are scored on the CPU")


def _say_arithmetic() -> None:
    if torch.cuda.is_available():
        dtype, why = "bfloat16", "a GPU is there"
    elif env.has_bfloat16_matrix():
        dtype, why = "bfloat16", "this CPU has bfloat16 matrix instructions"
    else:
        dtype, why = "float32", "no GPU, and this CPU has no bfloat16 matrix instructions"
    products = "oneDNN (MKL leaves AVX-512 idle here)" if env.mkl_leaves_avx512_idle() else "as torch does them"
    say(f"float32 products on the CPU: {products}")
    say(f"--dtype auto: {dtype} ({why})")
    try:
        require_float8(CUDA if torch.cuda.is_available() else CPU)
        say("--dtype float8: possible; products in float8 where that is faster, measured when the model loads")
    except ArgumentError as error:
        say(str(error))


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can see"
    found = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return (
        f"{count} x {found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
    )


def _say_packages() -> None:
    for extra, (packages, purpose) in EXTRAS.items():
        found = {p: v for p in packages if (v := env.version(p))}
        whole = bool(found) if extra in ANY_OF else len(found) == len(packages)
        there = ", ".join(f"{p} {v}" for p, v in found.items())
        mend = f'missing: pip install "nagfast[{extra}]"'
        say(f"  {extra:12s}{purpose:34s}{there if whole else mend}")
    for package, purpose in BASE.items():
        version = env.version(package)
        say(f"  {package:12s}{purpose:34s}{version or f'missing: pip install {package}'}")


def doctor(_config: configs.DoctorConfig) -> int:
    """What this machine has, and which backend each operation will take."""
    machine: dict[str, Any] = env.machine()
    say(f"nagfast {env.versions().get('nagfast', '(not installed)')}  commit {machine['commit'] or 'unknown'}")
    versions = "  ".join(f"{k} {v}" for k, v in env.versions().items() if k not in {"python", "nagfast"})
    say(textwrap.fill(f"python {platform.python_version()}  {versions}", WIDTH, subsequent_indent="  "))
    say(f"cpu: {machine['cpu']}, {machine['cores']} cores, torch uses {torch.get_num_threads()} threads")
    say(f"gpu: {_gpu()}")
    extension = ops.native()
    if extension is None:
        say("extension nagfast._C: not built; every op takes the reference backend (slow). pip install . builds it")
    else:
        isas = ", ".join(extension.available_isas())
        say(f"extension nagfast._C: built; instruction sets here: {isas}; takes {extension.resolve_isa(ops.isa())}")
    say()
    _say_operations()
    say()
    _say_arithmetic()
    say()
    say("for some commands only:")
    _say_packages()
    return 0
