"""The native operations one by one: score, topk, swiglu."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nagfast import doctor, ops, reference
from nagfast.benchmarks import baselines, ceilings
from nagfast.benchmarks.harness import Benchmark, Check, Variant, hash_inputs, register

Array = npt.NDArray[Any]


def synthetic_nags(documents: int, layers: int, top_k: int, neurons: int, seed: int) -> Array:
    """Random NAGs (uint16 [n, L, K]), distinct within a layer, some neurons far more frequent than others.

    Neuron k of a document comes from the k-th of K strata of a layer's shuffled neurons, skewed to the stratum's front.
    """
    rng = np.random.default_rng(seed)
    # The neurons' places belong to the model, not to the documents: one shuffle for all seeds.
    places = np.stack([np.random.default_rng(layer).permutation(neurons) for layer in range(layers)])
    width = neurons // top_k
    nags = np.empty((documents, layers, top_k), np.uint16)
    strata = np.arange(top_k) * width
    for layer in range(layers):
        drawn = rng.random((documents, top_k), dtype=np.float32)
        nags[:, layer] = places[layer][strata + np.minimum((drawn * drawn * width).astype(np.int64), width - 1)]
    return nags


def _native() -> Any:
    extension = ops.native()
    if extension is None:
        raise SystemExit("nagfast bench: the extension nagfast._C is not built; pip install -e . builds it")
    return extension


def _nag_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=50_000, help="documents per call")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--targets", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profiles", type=int, default=1, help="profiles side by side; beyond 1 without numpy")
    parser.set_defaults(rounds=9, warmup=2, min_seconds=0.2)


@register("score", _nag_options)
def score(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Documents against a profile: the numpy routine and every instruction set."""
    extension, o = _native(), options
    sets = [synthetic_nags(o.documents, o.layers, o.top_k, o.neurons, seed) for seed in range(3)]
    tables = [
        ops.count(synthetic_nags(o.targets, o.layers, o.top_k, o.neurons, 1000 + p), o.neurons)[0]
        for p in range(o.profiles)
    ]
    table = np.ascontiguousarray(np.stack(tables, axis=2).astype(np.uint16))
    weights = reference.profile_weights(tables[0])
    out = np.empty((o.documents, o.profiles), np.int64)
    isas = [isa for isa in extension.available_isas() if isa != "auto"]

    def native(isa: str) -> Variant:
        return lambda i: extension.score(sets[i % len(sets)], table, out, threads=o.threads, isa=isa)

    variants: dict[str, Variant] = {}
    if o.profiles == 1:
        variants["numpy gather"] = lambda i: baselines.gathered_similarity(sets[i % len(sets)], weights)
    variants |= {f"cpp {isa}": native(isa) for isa in isas}

    def check() -> Check:
        few = sets[0][:2000]
        expected = np.stack([reference.integer_sums(few, t) for t in tables], axis=1)
        same = {}
        for isa in isas:
            got = np.full((len(few), o.profiles), -1, np.int64)
            extension.score(few, table, got, threads=o.threads, isa=isa)
            same[f"exact_{isa}"] = bool((got == expected).all())
        gathered = baselines.gathered_similarity(few, weights)
        worst = float(np.abs(gathered - expected[:, 0] / (o.layers * o.targets * o.top_k)).max())
        return Check(all(same.values()) and worst < 1e-12, same | {"numpy_difference": worst})

    moved = float(sets[0].nbytes + out.nbytes)
    shown = ("documents", "layers", "top_k", "neurons", "targets", "profiles", "threads")
    yield Benchmark(
        name="score",
        variants=variants,
        check=check,
        units={"documents": float(o.documents)},
        bytes_per_call=dict.fromkeys(variants, moved),
        params={n: getattr(o, n) for n in shown},
        input_hash=hash_inputs(*sets, table),
    )


def _topk_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--rows", type=int, default=2048, help="documents per call")
    parser.add_argument("--neurons", type=int, default=6144)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(rounds=9, warmup=2, min_seconds=0.2)


@register("topk", _topk_options)
def topk(options: argparse.Namespace) -> Iterator[Benchmark]:
    """The K largest of every row against torch.topk; impacts as in a random model."""
    o = options
    torch.set_num_threads(o.threads)
    generator = torch.Generator().manual_seed(0)
    drawn = [(torch.randn((o.rows, o.neurons), generator=generator) * 0.05 + 0.8).abs() for _ in range(3)]
    sets = [s.to(o.device) for s in drawn]
    backend = "cpp" if o.device == "cpu" else doctor.backend_of("topk", torch.device(o.device))

    def torch_topk(i: int) -> torch.Tensor:
        return torch.topk(sets[i % 3], o.top_k, dim=1).indices

    def ours(i: int) -> torch.Tensor:
        return ops.topk(sets[i % 3], o.top_k, backend=backend, threads=o.threads)

    def check() -> Check:
        expected = reference.topk(drawn[0].numpy(), o.top_k)
        exact = bool((ours(0).cpu().numpy() == expected).all())
        return Check(exact, {"exact": exact})

    moved = float(sets[0].nbytes + o.rows * o.top_k * 2)
    yield Benchmark(
        name="topk",
        variants={"torch.topk": torch_topk, backend: ours},
        check=check,
        units={"rows": float(o.rows)},
        bytes_per_call={"torch.topk": moved, backend: moved},
        device=o.device,
        ceilings={name: {"GB/s": round(ceilings.copy_gbs(o.device), 2)} for name in ("torch.topk", backend)},
        params={n: getattr(o, n) for n in ("rows", "neurons", "top_k", "threads")},
        input_hash=hash_inputs(*(s.numpy() for s in drawn)),
    )


def _swiglu_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=17)
    parser.add_argument("--length", type=int, default=120)
    parser.add_argument("--neurons", type=int, default=3072)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(rounds=25, warmup=2, min_seconds=0.0)


@register("swiglu", _swiglu_options)
def swiglu(options: argparse.Namespace) -> Iterator[Benchmark]:
    """SwiGLU and impact in one pass against the same in torch operations, float32 and bfloat16."""
    torch.set_num_threads(options.threads)
    for dtype in (torch.float32, torch.bfloat16):
        yield _swiglu(options, dtype)


def _swiglu(o: argparse.Namespace, dtype: torch.dtype) -> Benchmark:
    tokens, neurons = o.documents * o.length, o.neurons
    generator = torch.Generator().manual_seed(0)
    sets = [torch.randn((tokens, 2 * neurons), generator=generator).to(dtype) for _ in range(3)]
    gates = [s[:, :neurons].clone() for s in sets]
    cu_seqlens = np.arange(o.documents + 1, dtype=np.int64) * o.length

    def in_torch(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = sets[i % 3].split(neurons, dim=1)
        activation = torch.nn.functional.silu(gate) * up
        impacts = up.abs().view(o.documents, o.length, neurons).float().mean(dim=1)
        return activation, impacts

    def ours(i: int) -> torch.Tensor:
        return ops.swiglu_impact(sets[i % 3], cu_seqlens, backend="cpp", threads=o.threads)

    class Restored:
        """The gate halves as they were: the operation overwrites them."""

        def __enter__(self) -> None:
            for whole, gate in zip(sets, gates, strict=True):
                whole[:, :neurons] = gate

        def __exit__(self, *_: object) -> None: ...

    def check() -> Check:
        with Restored():
            expected, expected_impacts = in_torch(0)
            impacts = ours(0)
            worst = float((sets[0][:, :neurons].float() - expected.float()).abs().max())
        worst_impact = float((impacts - expected_impacts).abs().max())
        limit = 1e-5 if dtype is torch.float32 else 0.13  # one step of bfloat16 at the largest value, 16
        detail = {"difference": worst, "impact_difference": worst_impact}
        return Check(worst <= limit and worst_impact <= 1e-4, detail)

    moved = float(tokens * neurons * 3 * sets[0].element_size())
    return Benchmark(
        name="swiglu",
        variants={"torch": in_torch, "cpp": ours},
        check=check,
        units={"tokens": float(tokens)},
        bytes_per_call={"torch": moved, "cpp": moved},
        around={"torch": Restored, "cpp": Restored},
        params={
            "dtype": str(dtype).removeprefix("torch."),
            **{n: getattr(o, n) for n in ("documents", "length", "neurons", "threads")},
        },
        input_hash=hash_inputs(*(s.float().numpy() for s in sets)),
        notes=["bytes are those one pass must move (read gate and up, write the product); torch moves more"],
    )
