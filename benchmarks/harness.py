"""Timing that can be believed: checked before it is timed, interleaved, on inputs that rotate.

Every result is a JSON line that says what was measured where.

A ratio is taken pair by pair: in each round every variant runs once (A B C A B C ...), and the ratio of a variant is
the median over the rounds of baseline seconds / variant seconds, so drift of the machine falls on both alike.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nagfast import env

_HERE = Path(__file__).resolve().parent
RESULTS = _HERE / "results" if (_HERE.parent / "pyproject.toml").is_file() else Path("bench-results")
Variant = Callable[[int], object]


class CheckFailedError(RuntimeError):
    """A variant's result is wrong: nothing is timed."""


@dataclass(frozen=True)
class Check:
    """What the correctness gate found."""

    passed: bool
    """Whether the variants may be timed."""
    detail: Mapping[str, Any]
    """The figures it rests on; they go into every result."""
    of_variant: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Variant -> what the check found about it, such as recall or memory; numbers and words."""


@dataclass(frozen=True)
class Benchmark:
    """One comparison."""

    name: str
    """Benchmark, as on the command line."""
    variants: Mapping[str, Variant]
    """Called with the number of the round, so that inputs can rotate; in the order they are interleaved."""
    check: Callable[[], Check]
    """Correctness gate, run once before the first timing."""
    units: Mapping[str, float]
    """Work of one call, such as {"tokens": 2880, "documents": 24}; rates are work / second."""
    baseline: str | None = None
    """The variant the ratios refer to; default the first."""
    bytes_per_call: Mapping[str, float] = field(default_factory=dict)
    """Variant -> bytes read and written by one call, where that is meaningful."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Settings: shape, lengths, threads, isa, ..."""
    input_hash: str = ""
    """SHA-256 (16 hex digits) over the inputs."""
    notes: Sequence[str] = ()
    """What a reader of the result must know."""
    around: Mapping[str, Callable[[], AbstractContextManager[Any]]] = field(default_factory=dict)
    """Variant -> a context entered before each sample and left after it, outside the timed part."""


Setup = Callable[[Any], Iterable[Benchmark]]
REGISTRY: dict[str, tuple[Setup, Callable[[Any], None]]] = {}


def register(name: str, add_options: Callable[[Any], None]) -> Callable[[Setup], Setup]:
    """Register a setup function: options -> the comparisons of the benchmark, one at a time."""

    def keep(setup: Setup) -> Setup:
        if name in REGISTRY:
            raise ValueError(f"benchmark {name!r} is registered twice")
        REGISTRY[name] = (setup, add_options)
        return setup

    return keep


def hash_inputs(*inputs: Any) -> str:
    """SHA-256, first 16 hex digits, over arrays and strings in order."""
    digest = hashlib.sha256()
    for item in inputs:
        for part in item if isinstance(item, list | tuple) else [item]:
            digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else str(part).encode())
    return digest.hexdigest()[:16]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile."""
    low, middle, high = np.percentile(np.asarray(values, dtype=np.float64), [20, 50, 80])
    return {"median": float(middle), "p20": float(low), "p80": float(high)}


def pair_ratios(baseline: Sequence[float], variant: Sequence[float]) -> dict[str, float]:
    """Quantiles of baseline / variant seconds, round by round."""
    return quantiles([b / v for b, v in zip(baseline, variant, strict=True)])


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _sample(benchmark: Benchmark, name: str, round_number: int, repeats: int) -> float:
    """Seconds per call, over `repeats` calls."""
    call = benchmark.variants[name]
    with benchmark.around.get(name, nullcontext)():
        begin = time.perf_counter()
        for i in range(repeats):
            call(round_number * repeats + i)
        return (time.perf_counter() - begin) / repeats


def _warm(benchmark: Benchmark, name: str, warmup: int, min_seconds: float) -> int:
    """Warm up; how often to repeat a call so that one sample takes min_seconds."""
    samples = [_sample(benchmark, name, i, 1) for i in range(warmup)]
    return max(1, min(10_000, round(min_seconds / max(min(samples), 1e-9)))) if samples else 1


def run(benchmark: Benchmark, *, rounds: int = 5, warmup: int = 1, min_seconds: float = 0.0) -> list[dict[str, Any]]:
    """Check, warm up, time in interleaved rounds.

    Args:
        benchmark: what to run.
        rounds: samples per variant.
        warmup: calls of every variant before the first round; 0 where the check has already warmed everything up.
        min_seconds: short calls are repeated until a sample takes this long.

    Returns:
        One record per variant, ready for JSON.

    Raises:
        CheckFailedError: the correctness gate did not pass; nothing was timed.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds, warmup: got {rounds}, {warmup}; use at least 1 and 0")
    check = benchmark.check()
    if not check.passed:
        raise CheckFailedError(f"{benchmark.name}: refused to time, the check failed: {json.dumps(dict(check.detail))}")
    repeats = {name: _warm(benchmark, name, warmup, min_seconds) for name in benchmark.variants}
    seconds: dict[str, list[float]] = {name: [] for name in benchmark.variants}
    for round_number in range(rounds):
        for name in benchmark.variants:
            seconds[name].append(_sample(benchmark, name, round_number, repeats[name]))
    return [_record(benchmark, check, name, seconds, repeats[name]) for name in benchmark.variants]


def _record(
    benchmark: Benchmark, check: Check, name: str, seconds: Mapping[str, Sequence[float]], repeats: int
) -> dict[str, Any]:
    mine = seconds[name]
    baseline = benchmark.baseline or next(iter(benchmark.variants))
    moved = benchmark.bytes_per_call.get(name)
    return {
        "benchmark": benchmark.name,
        "variant": name,
        "baseline": baseline,
        "params": dict(benchmark.params),
        "date": datetime.date.today().isoformat(),
        "rounds": len(mine),
        "repeats": repeats,
        "seconds": quantiles(mine),
        "samples": list(mine),
        "rates": {f"{unit}/s": quantiles([work / s for s in mine]) for unit, work in benchmark.units.items()},
        "bytes": moved,
        "GB/s": None if moved is None else quantiles([moved / s / 1e9 for s in mine]),
        "ratio": pair_ratios(seconds[baseline], mine),
        "check": dict(check.detail),
        "found": dict(check.of_variant.get(name, {})),
        "input_sha256": benchmark.input_hash,
        "peak_rss_bytes": peak_rss_bytes(),
        "notes": list(benchmark.notes),
        "machine": env.machine(),
    }


def append_json(folder: Path, name: str, record: Mapping[str, Any], date: str) -> Path:
    """Append one JSON line to FOLDER/NAME-DATE.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{date}.jsonl"
    with path.open("a") as handle:
        handle.write(json.dumps(record, sort_keys=True) + "\n")
    return path


def _number(value: float) -> str:
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records of one comparison as text, one line a variant: median [p20, p80]."""
    first = records[0]
    lines = [f"{first['benchmark']}  " + "  ".join(f"{k}={v}" for k, v in first["params"].items())]
    lines.append("  check " + "  ".join(f"{k}={v}" for k, v in first["check"].items()))
    width = max(len(r["variant"]) for r in records)
    for record in records:
        parts = [f"  {record['variant']:{width}s}"]
        for unit, rate in record["rates"].items():
            middle, low, high = (_number(rate[q]) for q in ("median", "p20", "p80"))
            parts.append(f"{middle:>6s} [{low}, {high}] {unit}")
        if record["GB/s"]:
            parts.append(f"{record['GB/s']['median']:6.2f} GB/s")
        ratio = record["ratio"]
        parts.append(f"{ratio['median']:5.2f}x [{ratio['p20']:.2f}, {ratio['p80']:.2f}]")
        parts.extend(f"{k}={v}" for k, v in record["found"].items() if not isinstance(v, dict))
        lines.append("  ".join(parts))
    lines.extend(f"  note: {note}" for note in first["notes"])
    return "\n".join(lines)
