"""Timing that can be believed: checked before it is timed, interleaved, on inputs that rotate.

Every result is a JSON line that says what was measured where. On a GPU a sample begins and ends when the device has
nothing left to do. A variant that runs out of memory is recorded as such; the others go on.

A ratio is taken pair by pair: in each round every variant runs once (A B C A B C ...), and the ratio of a variant is
the median over the rounds of baseline seconds / variant seconds, so drift of the machine falls on both alike.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nagfast import env
from nagfast.benchmarks import devices
from nagfast.steps import is_out_of_memory

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
    work: Mapping[str, float] = field(default_factory=dict)
    """Variant -> how many times the work of `units` one call does, where not once; its samples are divided by it."""
    device: str = "cpu"
    """Where the variants work; timing waits for it."""
    flops_per_call: Mapping[str, float] = field(default_factory=dict)
    """Variant -> floating-point operations the result needs (not those that the variant does), for MFU."""
    ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Variant -> what the device reached in this run (see ceilings.measured): TFLOP/s of products, GB/s of a copy."""


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


@dataclass
class _Timed:
    """What the rounds left of one variant."""

    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    error: str | None = None


def _sample(benchmark: Benchmark, name: str, round_number: int, repeats: int) -> float:
    """Seconds per call, over `repeats` calls."""
    call = benchmark.variants[name]
    with benchmark.around.get(name, nullcontext)():
        devices.synchronize(benchmark.device)
        begin = time.perf_counter()
        for i in range(repeats):
            call(round_number * repeats + i)
        devices.synchronize(benchmark.device)
        return (time.perf_counter() - begin) / (repeats * benchmark.work.get(name, 1.0))


def _attempt(benchmark: Benchmark, name: str, round_number: int, timed: _Timed) -> float | None:
    """A sample, or None where the variant runs out of memory, now or before."""
    if timed.error is not None:
        return None
    devices.reset_peak(benchmark.device)
    try:
        seconds = _sample(benchmark, name, round_number, timed.repeats)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        timed.error, timed.seconds = "out of memory", []
    else:
        peak = devices.peak_bytes(benchmark.device)
        timed.peak = None if peak is None else max(peak, timed.peak or 0)
        return seconds
    devices.release(benchmark.device)
    return None


def _warm(benchmark: Benchmark, name: str, warmup: int, min_seconds: float) -> _Timed:
    """Warm up; find out how often to repeat a call so that one sample takes min_seconds."""
    timed = _Timed()
    samples = [s for i in range(warmup) if (s := _attempt(benchmark, name, i, timed)) is not None]
    if samples:
        timed.repeats = max(1, min(10_000, round(min_seconds / max(min(samples), 1e-9))))
    return timed


def run(
    benchmark: Benchmark, *, rounds: int = 5, warmup: int = 1, min_seconds: float = 0.0, budget: float | None = None
) -> list[dict[str, Any]]:
    """Check, warm up, time in interleaved rounds.

    Args:
        benchmark: what to run.
        rounds: samples per variant.
        warmup: calls of every variant before the first round; 0 where the check has already warmed everything up.
        min_seconds: short calls are repeated until a sample takes this long.
        budget: no round begins after this many seconds of rounds; the first always does.

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
    timed = {name: _warm(benchmark, name, warmup, min_seconds) for name in benchmark.variants}
    begin = time.monotonic()
    for round_number in range(rounds):
        if round_number and budget is not None and time.monotonic() - begin > budget:
            break
        for name, mine in timed.items():
            seconds = _attempt(benchmark, name, round_number, mine)
            if seconds is not None:
                mine.seconds.append(seconds)
    return [_record(benchmark, check, name, timed) for name in benchmark.variants]


def _share(benchmark: Benchmark, name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Rates of products and memory, and their share of what the device reached in this run."""
    flops, moved = benchmark.flops_per_call.get(name), benchmark.bytes_per_call.get(name)
    reached = benchmark.ceilings.get(name, {})
    rates = {
        "TFLOP/s": quantiles([flops / s / 1e12 for s in seconds]) if flops and seconds else None,
        "GB/s": quantiles([moved / s / 1e9 for s in seconds]) if moved and seconds else None,
    }
    shares = {unit: rate["median"] / reached[unit] for unit, rate in rates.items() if rate and unit in reached}
    return {
        "bytes": moved,
        **rates,
        "ceilings": dict(reached),
        "mfu": shares.get("TFLOP/s"),
        "of_ceiling": max(shares.values(), default=None),
    }


def _record(benchmark: Benchmark, check: Check, name: str, timed: Mapping[str, _Timed]) -> dict[str, Any]:
    mine = timed[name].seconds
    baseline = benchmark.baseline or next(iter(benchmark.variants))
    theirs = timed[baseline].seconds
    return {
        "benchmark": benchmark.name,
        "variant": name,
        "baseline": baseline,
        "params": dict(benchmark.params),
        "date": datetime.date.today().isoformat(),
        "device": benchmark.device,
        "error": timed[name].error,
        "rounds": len(mine),
        "repeats": timed[name].repeats,
        "seconds": quantiles(mine) if mine else None,
        "samples": list(mine),
        "rates": {f"{unit}/s": quantiles([work / s for s in mine]) for unit, work in benchmark.units.items() if mine},
        **_share(benchmark, name, mine),
        "ratio": pair_ratios(theirs, mine) if mine and theirs else None,
        "check": dict(check.detail),
        "found": dict(check.of_variant.get(name, {})),
        "input_sha256": benchmark.input_hash,
        "peak_rss_bytes": devices.peak_rss_bytes(),
        "peak_device_bytes": timed[name].peak,
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
