"""Tokens to NAGs by activation times gradient: nagfast, projection beside it, and autograd on the padded model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from nagfast import env
from nagfast.backbone import Backbone
from nagfast.benchmarks import baselines, extract, shapes
from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.extraction import default_batch_tokens, token_nags

OVERLAP = 0.999  # below it more than near-ties differ


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the actgrad benchmark."""
    parser.add_argument("--shape", default="qwen3-0.6b", choices=(*shapes.SHAPES, "bundled"))
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--lengths", nargs="+", default=["120", "web"], choices=("120", "web"))
    parser.add_argument("--documents", type=int, default=16, help="documents per call")
    parser.add_argument("--web-median", type=float, default=300.0, help="median of the log-normal before truncation")
    parser.add_argument("--batch-tokens", type=int, help="tokens per step of nagfast; default what fits the memory")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=env.cpu_count())
    parser.add_argument("--training", action="store_true", help="also the baseline with gradients of all parameters")
    parser.set_defaults(rounds=4, warmup=0, min_seconds=0.0)


def _load(options: argparse.Namespace) -> Backbone:
    if options.shape == "bundled":
        return Backbone.load("bundled", dtype="float32", device="cpu")
    return extract.backbone_of(shapes.build(options.shape, layers=options.layers), options.shape)


class _Run:
    """One model, every way of running it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.options = options
        self.backbone = _load(options)
        self.batch_tokens = options.batch_tokens or default_batch_tokens(self.backbone, "act_grad")

    def nagfast(self, impact: str, tokens: extract.Tokens) -> npt.NDArray[np.integer]:
        """The engine, as extract calls it."""
        spec = self.backbone.spec(top_k=self.options.top_k, impact=impact, max_length=extract.MAX_LENGTH)
        return token_nags(self.backbone, tokens, {"fwd_up": spec}, self.batch_tokens)["fwd_up"]

    def baseline(self, tokens: extract.Tokens) -> list[list[list[int]]]:
        """Autograd on the padded model; to be called in eager attention."""
        return baselines.padded_act_grad_nags(self.backbone.model, self.backbone.layers, tokens, self.options.top_k)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Eager attention, and parameters that require a gradient."""
        model = self.backbone.model
        with baselines.eager_attention(model), baselines.trainable(model):
            yield

    def check(self, tokens: extract.Tokens) -> Check:
        """Same top-K sets as the baseline, near-ties aside."""
        with baselines.eager_attention(self.backbone.model):
            expected = np.array(self.baseline(tokens))
        found = self.nagfast("act_grad", tokens)
        overlap = extract.mean_overlap(found, expected)
        equal = float((found == expected).mean())
        return Check(overlap >= OVERLAP, {"overlap": round(overlap, 6), "indices_equal": round(equal, 6)})

    def comparison(self, lengths: str) -> Benchmark:
        """One distribution of lengths."""
        o, vocab = self.options, int(self.backbone.config.vocab_size)
        sets = [extract.draw_documents(lengths, o.documents, vocab, o.web_median, 100)]
        sizes = np.maximum([len(t) for t in sets[0]], 2)  # a single token has no loss
        for number in range(o.rounds):
            rng = np.random.default_rng(number)
            sets.append([rng.integers(0, vocab, n) for n in rng.permutation(sizes)])
        sets = sets[1:]
        eager = partial(baselines.eager_attention, self.backbone.model)
        variants = {
            "padded autograd": lambda i: self.baseline(sets[i % len(sets)]),
            "nagfast act_grad": lambda i: self.nagfast("act_grad", sets[i % len(sets)]),
            "nagfast projection": lambda i: self.nagfast("projection", sets[i % len(sets)]),
        }
        around = {"padded autograd": eager}
        if o.training:
            variants["padded autograd, parameters too"] = variants["padded autograd"]
            around["padded autograd, parameters too"] = self.training
        return Benchmark(
            name="actgrad",
            variants=variants,
            check=lambda: self.check(sets[-1]),
            units={"tokens": float(sum(sizes)), "documents": float(len(sizes))},
            around=around,
            params={
                "shape": o.shape,
                "layers": self.backbone.num_layers,
                "lengths": lengths,
                "mean_length": round(float(np.mean(sizes)), 1),
                "documents": o.documents,
                "batch_tokens": self.batch_tokens,
                "baseline_batch": baselines.BATCH,
                "top_k": o.top_k,
                "threads": o.threads,
            },
            input_hash=hash_inputs(*(d for documents in sets for d in documents)),
            notes=["the baseline freezes the parameters; all variants keep freed memory, as the nagfast command does"],
        )


@register("actgrad", add_options)
def setup(options: argparse.Namespace) -> Iterator[Benchmark]:
    """One comparison per distribution of document lengths."""
    run = _Run(options)
    for lengths in options.lengths:
        yield run.comparison(lengths)
