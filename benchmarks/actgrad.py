"""Tokens to NAGs by activation times gradient: nagfast, projection beside it, and autograd on the padded model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from nagfast.backbone import Backbone
from nagfast.benchmarks import baselines, ceilings, documents, engines
from nagfast.benchmarks.documents import Tokens, mean_overlap
from nagfast.benchmarks.harness import Benchmark, Check, Variant, hash_inputs, register
from nagfast.extraction import default_batch_tokens

OVERLAP = {"float32": 0.999, "bfloat16": 0.80}
"""Least share of the top K in common with autograd; float32 differs in near-ties alone, bfloat16 in rounding."""
CHECKED = 32  # documents
CUDA_TOKENS = 32_768  # of a call


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the actgrad benchmark."""
    engines.add_options(parser, more_shapes=("bundled",))
    parser.add_argument("--training", action="store_true", help="also the baseline with gradients of all parameters")
    parser.set_defaults(rounds=4, warmup=None, min_seconds=0.0)


class _Comparison:
    """One distribution of lengths."""

    def __init__(self, run: engines.Engines, lengths: str) -> None:
        self.run, self.options, self.lengths = run, run.options, lengths
        count = engines.documents_of(self.options, lengths, CUDA_TOKENS)
        sizes = documents.draw_sizes(lengths, count, self.options.web_median, 100)
        self.sizes = np.maximum(sizes, 2)  # a single token has no loss
        self.sets = documents.rotating(self.sizes, self.options.rounds, run.vocab)
        backbone: Backbone = run.backbones[run.main]
        self.batch_tokens = self.options.batch_tokens or default_batch_tokens(backbone, "act_grad")

    def baseline(self, i: int) -> list[list[list[int]]]:
        """Autograd on the padded model; to be called in eager attention."""
        return self._autograd(self.sets[i % len(self.sets)])

    def _autograd(self, tokens: Tokens) -> list[list[list[int]]]:
        return baselines.padded_act_grad_nags(self.run.model, self.run.layers, tokens, self.options.top_k)

    def nagfast(self, impact: str, i: int) -> object:
        """The engine, as extract calls it."""
        budget = self.batch_tokens if impact == "act_grad" else None
        return self.run.nags(self.sets[i % len(self.sets)], impact=impact, budget=budget)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Eager attention, and parameters that require a gradient."""
        with self.run.attention(), baselines.trainable(self.run.model):
            yield

    def check(self) -> Check:
        """Same top-K sets as the baseline, near-ties and rounding aside."""
        few = self.sets[-1][:CHECKED]
        with self.run.attention():
            expected = np.array(self._autograd(few))
        found = self.run.nags(few, impact="act_grad", budget=self.batch_tokens)
        overlap = mean_overlap(found, expected)
        equal = float((found == expected).mean())
        detail = {"overlap": round(overlap, 6), "indices_equal": round(equal, 6), "checked_documents": len(few)}
        return Check(overlap >= OVERLAP[self.run.main], detail)

    def _flops(self, tokens: float) -> dict[str, float]:
        """What an act_grad NAG needs, and what a projection NAG does."""
        if self.run.shape is None:
            return {}
        context = documents.mean_context(self.sizes)
        needed = self.run.shape.act_grad_flops_per_token(context) * tokens
        projection = {"nagfast projection": self.run.shape.flops_per_token(context) * tokens}
        names = ("padded autograd", "nagfast act_grad", "padded autograd, parameters too")
        return dict.fromkeys(names, needed) | projection

    def benchmark(self) -> Benchmark:
        """All variants on these documents."""
        o, run, tokens = self.options, self.run, float(self.sizes.sum())
        variants: dict[str, Variant] = {
            "padded autograd": self.baseline,
            "nagfast act_grad": partial(self.nagfast, "act_grad"),
            "nagfast projection": partial(self.nagfast, "projection"),
        }
        around = {"padded autograd": run.attention}
        if o.training:
            variants["padded autograd, parameters too"] = self.baseline
            around["padded autograd, parameters too"] = self.training
        return Benchmark(
            name="actgrad",
            variants=variants,
            check=self.check,
            units={"tokens": tokens, "documents": float(len(self.sizes))},
            around=around,
            device=o.device,
            flops_per_call=self._flops(tokens),
            ceilings=dict.fromkeys(variants, ceilings.measured(o.device, run.main)),
            params={
                "shape": o.shape,
                "layers": run.backbones[run.main].num_layers,
                "dtype": run.main,
                "lengths": self.lengths,
                "mean_length": round(float(self.sizes.mean()), 1),
                "documents": len(self.sizes),
                "batch_tokens": self.batch_tokens,
                "baseline_batch": baselines.BATCH,
                "top_k": o.top_k,
                "threads": o.threads,
            },
            input_hash=hash_inputs(*(d for tokens in self.sets for d in tokens)),
            notes=["the baseline freezes the parameters; all variants keep freed memory, as the nagfast command does"],
        )


@register("actgrad", add_options)
def setup(options: argparse.Namespace) -> Iterator[Benchmark]:
    """The same by activation times gradient: nagfast, and autograd on the padded model; projection beside them."""
    engines.resolve(options)
    run = engines.Engines(options, bfloat16=False)
    for lengths in options.lengths:
        yield _Comparison(run, lengths).benchmark()
