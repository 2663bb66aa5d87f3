"""Tokens to NAGs on the CPU: nagfast against the padded eager pipeline, on one model object with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import env
from nagfast.backbone import Backbone
from nagfast.benchmarks import baselines, shapes
from nagfast.benchmarks.harness import Benchmark, Check, Variant, hash_inputs, register
from nagfast.extraction import BATCH_TOKENS, token_nags

MAX_LENGTH = 120
FLOAT32_OVERLAP = 0.999  # below it more than near-ties differ
BFLOAT16_OVERLAP = 0.95  # 0.986 to 0.991 was seen on random weights
Tokens = list[npt.NDArray[np.int64]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the extract benchmark."""
    parser.add_argument("--shape", default="qwen3-0.6b", choices=tuple(shapes.SHAPES))
    parser.add_argument("--lengths", nargs="+", default=["120", "web"], choices=("120", "web"))
    parser.add_argument("--documents", type=int, default=16, help="documents per call")
    parser.add_argument("--web-median", type=float, default=300.0, help="median of the log-normal before truncation")
    parser.add_argument("--batch-tokens", type=int, default=BATCH_TOKENS["cpu"], help="tokens per step of nagfast")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=env.cpu_count())
    parser.add_argument("--force-bfloat16", action="store_true", help="measure bfloat16 on a CPU without such products")
    parser.set_defaults(rounds=4, warmup=0, min_seconds=0.0)


def draw_documents(lengths: str, documents: int, vocab: int, web_median: float, seed: int) -> Tokens:
    """Random token ids; all of 120, or min(120, log-normal) with sigma 1."""
    rng = np.random.default_rng(seed)
    if lengths == "120":
        sizes = np.full(documents, MAX_LENGTH)
    else:
        drawn = np.rint(rng.lognormal(np.log(web_median), 1.0, documents)).astype(np.int64)
        sizes = np.clip(drawn, 1, MAX_LENGTH)
    return [rng.integers(0, vocab, n) for n in sizes]


def _bfloat16_twin(model: nn.Module, shape: str) -> nn.Module:
    """The same weights, rounded."""
    twin = shapes.build(shape, dtype=torch.bfloat16)
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    return twin


def backbone_of(model: nn.Module, shape: str) -> Backbone:
    """A checked backbone on the CPU around a model of a shape."""
    backbone = Backbone(model, shapes.NoTokenizer(), shape, torch.device("cpu"))
    backbone.prepare()
    return backbone


def mean_overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Mean share of neurons two arrays of NAGs [n, L, K] have in common."""
    return float((a[:, :, :, None].astype(np.int64) == b[:, :, None, :]).any(axis=3).mean())


class _Run:
    """One model, both ways of running it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        self.shape = shapes.SHAPES[options.shape]
        model = shapes.build(options.shape)
        self.backbones = {"float32": backbone_of(model, options.shape)}
        if env.has_bfloat16_matrix() or options.force_bfloat16:
            self.backbones["bfloat16"] = backbone_of(_bfloat16_twin(model, options.shape), options.shape)

    def baseline(self, tokens: Tokens) -> list[list[list[int]]]:
        """The padded pipeline; to be called in eager attention."""
        backbone = self.backbones["float32"]
        return baselines.padded_nags(backbone.model, backbone.layers, tokens, self.options.top_k)

    def nagfast(self, dtype: str, tokens: Tokens) -> npt.NDArray[Any]:
        """The engine, as extract calls it."""
        backbone = self.backbones[dtype]
        specs = {"fwd_up": backbone.spec(top_k=self.options.top_k, max_length=MAX_LENGTH)}
        return token_nags(backbone, tokens, specs, self.options.batch_tokens)["fwd_up"]

    @contextmanager
    def published_conditions(self) -> Iterator[None]:
        """Eager attention, and freed memory given back as glibc does by itself."""
        env.give_back_freed_memory()
        try:
            with baselines.eager_attention(self.backbones["float32"].model):
                yield
        finally:
            env.keep_freed_memory()

    def check(self, tokens: Tokens) -> Check:
        """Same top-K sets as the baseline, near-ties aside."""
        with baselines.eager_attention(self.backbones["float32"].model):
            expected = np.array(self.baseline(tokens))
        limits = {"float32": FLOAT32_OVERLAP, "bfloat16": BFLOAT16_OVERLAP}
        overlaps = {d: mean_overlap(self.nagfast(d, tokens), expected) for d in self.backbones}
        passed = all(overlaps[d] >= limits[d] for d in overlaps)
        return Check(passed, {f"overlap_{d}": round(v, 6) for d, v in overlaps.items()})

    def comparison(self, lengths: str) -> Benchmark:
        """One distribution of lengths."""
        o = self.options
        sets = [draw_documents(lengths, o.documents, self.shape.vocab, o.web_median, 100 + s) for s in range(o.rounds)]
        # Every round has its own documents of the same lengths in another order, so that the work is the same.
        sizes = [len(t) for t in sets[0]]
        for number, documents in enumerate(sets[1:], 1):
            rng = np.random.default_rng(number)
            documents[:] = [rng.integers(0, self.shape.vocab, n) for n in rng.permutation(sizes)]
        variants: dict[str, Variant] = {"padded eager float32": lambda i: self.baseline(sets[i % len(sets)])}
        for dtype in self.backbones:
            variants[f"nagfast {dtype}"] = lambda i, d=dtype: self.nagfast(d, sets[i % len(sets)])  # type: ignore[misc]
        variants["padded eager float32, default allocator"] = lambda i: self.baseline(sets[i % len(sets)])
        notes = [
            "nagfast and the first baseline keep freed memory for reuse, as the nagfast command does; the last runs "
            "with the allocator's defaults, as the published pipeline would"
        ]
        if "bfloat16" not in self.backbones:
            notes.append("bfloat16 was not measured: this processor has no bfloat16 matrix instructions")
        return Benchmark(
            name="extract",
            variants=variants,
            check=lambda: self.check(sets[-1]),
            units={"tokens": float(sum(sizes)), "documents": float(len(sizes))},
            around={
                "padded eager float32": lambda: baselines.eager_attention(self.backbones["float32"].model),
                "padded eager float32, default allocator": self.published_conditions,
            },
            params={
                "shape": o.shape,
                "lengths": lengths,
                "mean_length": round(float(np.mean(sizes)), 1),
                "documents": o.documents,
                "batch_tokens": o.batch_tokens,
                "baseline_batch": baselines.BATCH,
                "top_k": o.top_k,
                "threads": o.threads,
                "flops_per_token": self.shape.flops_per_token(),
                "baseline_flops_per_token": self.shape.baseline_flops_per_token(),
            },
            input_hash=hash_inputs(*(d for documents in sets for d in documents)),
            notes=notes,
        )


@register("extract", add_options)
def setup(options: argparse.Namespace) -> Iterator[Benchmark]:
    """One comparison per distribution of document lengths."""
    run = _Run(options)
    for lengths in options.lengths:
        yield run.comparison(lengths)
