"""Where the time of a call goes: products, attention, elementwise work, impact, top-k, copies, and the host's gaps.

On a GPU the kernels are counted, on the CPU the operations (their own time, not that of what they call). Names decide
the group; what none fits is "other", and the largest of each are listed, so that a wrong group shows. The gap
is what the groups leave of the wall time: of a call without the profiler, which slows the host, on a GPU; of the
profiled call itself on the CPU.
"""

from __future__ import annotations

import argparse
import datetime
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from nagfast import env, ops
from nagfast.benchmarks import devices, documents, engines
from nagfast.benchmarks.harness import RESULTS, append_json, hash_inputs
from nagfast.benchmarks.tables import aligned
from nagfast.schema import IMPACTS

GROUPS = {
    "impact": r"impact|swiglu_backward",  # with the activation it is fused with
    "top-k": r"topk|top_k|sort|radix",
    "attention": r"flash|fmha|attention|attend|sdpa|scaled_dot|softmax_warp|softmax_forward",
    "products": r"gemm|gemv|nvjet|cutlass|cublas|xmma|wgmma|aten::(mm|addmm|bmm|baddbmm|_scaled_mm)$|mkldnn|::product",
    "copies": r"memcpy|memset|copy|aten::(cat|index|index_select|embedding)|gather|scatter|indexselect",
    "elementwise": r"norm|rotary|rope|elementwise|vectorized|reduce|quantize|softmax|silu|gelu|triton_"
    r"|aten::(mul|add|neg|pow|rsqrt|mean|sum|abs|div|sub|cos|sin|sigmoid|exp)_?$",
    "other": r"",
}
"""Group -> what the name of a kernel or operation of it holds; the first that fits counts."""
NATIVE = (
    "causal_attention",
    "product",
    "swiglu_impact",
    "segment_impact",
    "swiglu_backward",
    "topk",
    "topk_profile",
    "add_rms_norm",
    "norm_rotary",
)
"""Operations of nagfast.ops that the profiler cannot see on the CPU: they are no operations of torch."""
GAP = "host gap"


@dataclass(frozen=True)
class Part:
    """A kernel or operation."""

    name: str
    seconds: float
    calls: int


def group_of(name: str) -> str:
    """The group that a kernel or operation belongs to."""
    return next(group for group, pattern in GROUPS.items() if re.search(pattern, name, re.IGNORECASE))


@contextmanager
def _visible() -> Iterator[None]:
    """Nagfast's own operations under their names inside."""

    def named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            with record_function(f"nagfast::{name}"):
                return call(*arguments, **options)

        return wrapped

    kept = {name: getattr(ops, name) for name in NATIVE}
    try:
        for name, call in kept.items():
            setattr(ops, name, named(name, call))
        yield
    finally:
        for name, call in kept.items():
            setattr(ops, name, call)


def parts_of(call: Callable[[], object], device: str) -> tuple[list[Part], float]:
    """Kernels (GPU) or operations (CPU) of one call, the largest first, and how long it took under the profiler."""
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _visible(), profile(activities=activities) as profiler:
        profiled = wall_seconds(call, device, 1)
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    averages = [a for a in profiler.key_averages() if a.device_type == kind]
    # A range of the host is shown on the GPU too, on top of the kernels inside it.
    kernels = [a for a in averages if not cuda or not a.key.startswith("nagfast::")]
    found = [Part(a.key, getattr(a, field) / 1e6, int(a.count)) for a in kernels if getattr(a, field) > 0]
    return sorted(found, key=lambda part: -part.seconds), profiled


def wall_seconds(call: Callable[[], object], device: str, rounds: int = 3) -> float:
    """Median time of a call without the profiler."""
    samples = []
    for _ in range(rounds):
        devices.synchronize(device)
        begin = time.perf_counter()
        call()
        devices.synchronize(device)
        samples.append(time.perf_counter() - begin)
    return float(np.median(samples))


def grouped(parts: Sequence[Part], wall: float) -> dict[str, dict[str, Any]]:
    """Group -> seconds, share of the wall time, calls and the three largest; the gap is what is left of the wall."""
    out: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        mine = [p for p in parts if group_of(p.name) == group]
        seconds = sum(p.seconds for p in mine)
        largest = {p.name[:80]: round(p.seconds, 6) for p in mine[:3]}
        calls = sum(p.calls for p in mine)
        out[group] = {"seconds": seconds, "share": seconds / wall, "calls": calls, "largest": largest}
    gap = wall - sum(g["seconds"] for g in out.values())
    out[GAP] = {"seconds": gap, "share": gap / wall, "calls": 0, "largest": {}}
    return out


def table(groups: dict[str, dict[str, Any]]) -> str:
    """The groups as text."""
    rows = [["group", "ms", "share", "calls", "largest"]]
    for name, found in groups.items():
        first = next(iter(found["largest"]), "")
        cells = [f"{found['seconds'] * 1e3:.3f}", f"{found['share']:.1%}", str(found["calls"] or ""), first[:56]]
        rows.append([name, *cells])
    return "\n".join(aligned(rows))


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nagfast bench breakdown", description=(__doc__ or "").splitlines()[0])
    engines.add_options(parser)
    parser.add_argument("--impact", choices=IMPACTS, default="projection")
    parser.add_argument("--rounds", type=int, default=3, help="calls the wall time is the median of")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder of the JSON lines (default: {RESULTS})")
    parser.set_defaults(warmup=None)
    options = parser.parse_args(argv)
    engines.resolve(options)
    return options


def main(argv: Sequence[str]) -> int:
    """Print a table for each distribution of lengths, and append it as a JSON line."""
    o = _options(argv)
    run = engines.Engines(o, bfloat16=env.has_bfloat16_matrix(), float8=True)
    for lengths in o.lengths:
        sizes = documents.draw_sizes(lengths, engines.documents_of(o, lengths), o.web_median, 100)
        (tokens,) = documents.rotating(sizes, 1, run.vocab)
        for dtype in run.dtypes if o.impact == "projection" else [run.main]:

            def call(dtype: str = dtype) -> object:
                return run.nags(tokens, dtype, impact=o.impact)  # noqa: B023 - called within the round

            call()
            wall = wall_seconds(call, o.device, o.rounds)
            parts, profiled = parts_of(call, o.device)
            groups = grouped(parts, wall if o.device.startswith("cuda") else profiled)
            params = {"shape": o.shape, "lengths": lengths, "dtype": dtype, "impact": o.impact, "documents": len(sizes)}
            record = {
                "benchmark": "breakdown",
                "date": datetime.date.today().isoformat(),
                "device": o.device,
                "params": params | {"tokens": int(sizes.sum()), "threads": o.threads, "layers": o.layers},
                "seconds": wall,
                "profiled_seconds": profiled,
                "groups": groups,
                "about": run.about(),
                "input_sha256": hash_inputs(tokens),
                "machine": env.machine(),
            }
            path = append_json(o.out, "breakdown", record, record["date"])
            head = "  ".join(f"{k}={v}" for k, v in params.items())
            print(f"breakdown  {head}\n  {wall * 1e3:.2f} ms a call, {sizes.sum() / wall:,.0f} tokens/s")
            print(f"{table(groups)}\n  -> {path}", flush=True)
    return 0
