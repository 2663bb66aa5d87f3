"""The Triton kernels of the forward pass, each against the torch operations it replaces, on a GPU."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from nagfast import ops, reference
from nagfast.benchmarks import ceilings
from nagfast.benchmarks.harness import Benchmark, Check, Variant, hash_inputs, register

SETS = 3  # inputs that rotate: the caches must not hold the next call's
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Of the largest value: a step of the dtype, and what float32 sums in another order leave.
TOLERANCE = {torch.bfloat16: 2.0**-7, torch.float32: 1e-5}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=136, help="of --length tokens each")
    parser.add_argument("--length", type=int, default=120)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--profiles", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.set_defaults(rounds=9, warmup=3, min_seconds=0.02)


@register("kernels", _options)
def kernels(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Every Triton kernel of the forward pass against torch operations; needs a GPU."""
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks: kernels needs a CUDA device, torch sees none; run it on a machine with a GPU")
    yield from comparisons(options, torch.device("cuda"))


def comparisons(o: argparse.Namespace, device: torch.device) -> Iterator[Benchmark]:
    """The comparisons one by one; on the CPU only under Triton's interpreter, to try that they run.

    Args:
        o: the options of the benchmark.
        device: where the tensors are.
    """
    for make in (_swiglu, _topk, _profile, _norm, _rotary, _quantize):
        yield make(o, device)


def _draw(o: argparse.Namespace, device: torch.device, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(DTYPES[o.dtype])


def _ends(o: argparse.Namespace) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(o.documents + 1, dtype=np.int64) * o.length


def _near(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of what is allowed."""
    allowed = TOLERANCE[found.dtype] * float(expected.abs().max().clamp_min(1.0))
    return float((found.double() - expected.double()).abs().max()) / allowed


def _comparison(
    o: argparse.Namespace,
    device: torch.device,
    name: str,
    variants: Mapping[str, Variant],
    check: Callable[[], dict[str, float]],
    moved: float,
    unit: str,
) -> Benchmark:
    def gate() -> Check:
        shares = check()
        return Check(all(share <= 1 for share in shares.values()), shares)

    reached = ceilings.measured(str(device), "bfloat16") if device.type == "cuda" else {}
    params = {n: v for n, v in vars(o).items() if isinstance(v, int | str) and n in PARAMS}
    work = o.documents * (o.length if unit == "tokens" else 1)
    return Benchmark(
        name=f"kernels-{name}",
        variants=variants,
        check=gate,
        units={unit: float(work)},
        bytes_per_call=dict.fromkeys(variants, float(moved)),
        params=params,
        input_hash=hash_inputs(name, *(f"{k}={v}" for k, v in params.items())),
        device=str(device),
        ceilings=dict.fromkeys(variants, reached),
        notes=["bytes are those that one pass must move; torch operations move more", "inputs by seed, on the device"],
    )


PARAMS = ("documents", "length", "hidden", "neurons", "heads", "head_dim", "top_k", "profiles", "dtype")


def _swiglu(o: argparse.Namespace, device: torch.device) -> Benchmark:
    tokens, n, ends = o.documents * o.length, o.neurons, _ends(o)
    sets = [_draw(o, device, tokens, 2 * n, seed=i) for i in range(SETS)]

    def in_torch(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = sets[i % SETS].split(n, dim=1)
        impacts = up.float().abs().view(o.documents, o.length, n).mean(dim=1)
        return torch.nn.functional.silu(gate) * up, impacts

    def ours(i: int) -> ops.Impacts:
        return ops.swiglu_impact(sets[i % SETS], ends, backend="triton")

    def partials(i: int) -> ops.Impacts:
        return ops.swiglu_impact(sets[i % SETS], ends, finish=False, backend="triton")

    def check() -> dict[str, float]:
        kept = sets[0].clone()
        expected, impacts = in_torch(0)
        found = ops.finished(ours(0))
        product = sets[0][:, :n].clone()
        sets[0].copy_(kept)
        return {"product": _near(product, expected), "impact": _near(found, impacts)}

    variants: dict[str, Variant] = {"torch": in_torch, "triton": ours, "triton, sums of chunks": partials}
    moved = 3.0 * tokens * n * sets[0].element_size()
    return _comparison(o, device, "swiglu", variants, check, moved, "tokens")


def _impacts(o: argparse.Namespace, device: torch.device) -> tuple[list[torch.Tensor], list[ops.Impacts]]:
    """Impacts of random documents, finished and as sums of chunks."""
    ends, tokens = _ends(o), o.documents * o.length
    drawn = [_draw(o, device, tokens, o.neurons, seed=i) for i in range(SETS)]
    sums = [ops.segment_impact(x, ends, finish=False, backend="triton") for x in drawn]
    return [ops.finished(s) for s in sums], sums


def _topk(o: argparse.Namespace, device: torch.device) -> Benchmark:
    impacts, sums = _impacts(o, device)
    broken = torch.zeros(1, dtype=torch.int32, device=device)

    def ours(i: int) -> torch.Tensor:
        return ops.topk(impacts[i % SETS], o.top_k, broken=broken, backend="triton")

    def of_sums(i: int) -> torch.Tensor:
        return ops.topk(sums[i % SETS], o.top_k, broken=broken, backend="triton")

    def check() -> dict[str, float]:
        expected = reference.topk(impacts[0].cpu().numpy(), o.top_k)
        wrong = [int((call(0).cpu().numpy() != expected).sum()) for call in (ours, of_sums)]
        return {"wrong": 2.0 * wrong[0], "wrong_of_sums": 2.0 * wrong[1]}

    variants: dict[str, Variant] = {
        "torch.topk": lambda i: torch.topk(impacts[i % SETS], o.top_k, dim=1).indices,
        "triton": ours,
        "triton, of sums of chunks": of_sums,
    }
    moved = 4.0 * impacts[0].numel() + 2.0 * o.documents * o.top_k
    return _comparison(o, device, "topk", variants, check, moved, "documents")


def _profile(o: argparse.Namespace, device: torch.device) -> Benchmark:
    impacts, sums = _impacts(o, device)
    generator = torch.Generator(device).manual_seed(9)
    table = torch.randint(0, 500, (o.neurons, o.profiles), generator=generator, device=device, dtype=torch.int32)
    totals = torch.zeros((o.documents, o.profiles), dtype=torch.int64, device=device)
    broken = torch.zeros(1, dtype=torch.int32, device=device)

    def in_torch(i: int) -> None:
        chosen = torch.topk(impacts[i % SETS], o.top_k, dim=1).indices
        totals.add_(table[chosen].sum(dim=1))

    def ours(i: int) -> None:
        ops.topk_profile(sums[i % SETS], o.top_k, table, totals, broken=broken, backend="triton")

    def check() -> dict[str, float]:
        chosen = reference.topk(impacts[0].cpu().numpy(), o.top_k)
        totals.zero_()
        ours(0)
        return {"wrong": 2.0 * int((totals.cpu().numpy() != reference.table_sums(chosen, table.cpu().numpy())).sum())}

    variants: dict[str, Variant] = {"torch": in_torch, "triton, of sums of chunks": ours}
    return _comparison(o, device, "topk_profile", variants, check, 4.0 * impacts[0].numel(), "documents")


def _norm(o: argparse.Namespace, device: torch.device) -> Benchmark:
    tokens, weight = o.documents * o.length, _draw(o, device, o.hidden, seed=7)
    sets = [_draw(o, device, tokens, o.hidden, seed=i) for i in range(SETS)]
    stream, out = _draw(o, device, tokens, o.hidden, seed=8), torch.empty_like(sets[0])

    def in_torch(i: int) -> torch.Tensor:
        stream.add_(sets[i % SETS])
        wide = stream.float()
        return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)).to(stream.dtype) * weight

    def ours(i: int) -> torch.Tensor:
        return ops.add_rms_norm(sets[i % SETS], stream, weight, 1e-6, out=out, backend="triton")

    def check() -> dict[str, float]:
        total = stream + sets[0]
        found = ours(0)
        expected = reference.rms_norm(stream.double(), weight.double(), 1e-6)
        return {"residual": _near(stream, total), "norm": _near(found, expected)}

    variants: dict[str, Variant] = {
        "torch": in_torch,
        "triton": ours,
        "triton, float8": lambda i: ops.add_rms_norm_quantized(sets[i % SETS], stream, weight, 1e-6, backend="triton"),
    }
    moved = 4.0 * tokens * o.hidden * out.element_size()
    return _comparison(o, device, "add_rms_norm", variants, check, moved, "tokens")


def _rotary(o: argparse.Namespace, device: torch.device) -> Benchmark:
    tokens, dim = o.documents * o.length, o.head_dim
    sets = [_draw(o, device, tokens, o.heads, dim, seed=i) for i in range(SETS)]
    weight, angles = _draw(o, device, dim, seed=7) / 8 + 1, _draw(o, device, tokens, dim, seed=8)
    cos, sin = angles.cos(), angles.sin()

    def in_torch(i: int) -> torch.Tensor:
        wide = sets[i % SETS].float()
        x = (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)).to(cos.dtype) * weight
        low, high = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat([-high, low], dim=-1) * sin[:, None]

    def ours(i: int) -> None:
        ops.norm_rotary(sets[i % SETS], weight, 1e-6, cos, sin, backend="triton")

    def check() -> dict[str, float]:
        doubles = (part.double() for part in (weight, cos, sin))
        w, c, s = doubles
        expected = reference.norm_rotary(sets[0].double(), w, 1e-6, c, s)
        ours(0)
        return {"heads": _near(sets[0], expected)}

    variants: dict[str, Variant] = {"torch": in_torch, "triton": ours}
    moved = 2.0 * sets[0].numel() * cos.element_size()
    return _comparison(o, device, "norm_rotary", variants, check, moved, "tokens")


def _quantize(o: argparse.Namespace, device: torch.device) -> Benchmark:
    tokens = o.documents * o.length
    sets = [_draw(o, device, tokens, o.hidden, seed=i) for i in range(SETS)]

    def ours(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return ops.quantize_rows(sets[i % SETS], backend="triton")

    def check() -> dict[str, float]:
        found, scale = ours(0)
        _, expected = reference.quantize_rows(sets[0])
        error = float((found.float() * scale - sets[0].float()).abs().max() / sets[0].float().abs().max())
        return {"scale": _near(scale, expected), "rounding": error / 2.0**-4}  # half a step of 3 bits

    variants: dict[str, Variant] = {"torch": lambda i: reference.quantize_rows(sets[i % SETS]), "triton": ours}
    moved = sets[0].numel() * (sets[0].element_size() + 1.0)
    return _comparison(o, device, "quantize_rows", variants, check, moved, "tokens")
