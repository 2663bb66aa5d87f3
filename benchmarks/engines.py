"""A model of a shape with random weights, in the arithmetics that a device is measured in."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nagfast import env
from nagfast.backbone import Backbone
from nagfast.benchmarks import baselines, devices, shapes
from nagfast.benchmarks.documents import LENGTHS, Tokens, mean_size
from nagfast.errors import NagfastError
from nagfast.extraction import token_nags

CUDA_TOKENS = 131_072  # of a call: eight steps of 16,384


def add_options(parser: argparse.ArgumentParser, *, more_shapes: Sequence[str] = ()) -> None:
    """Options of every benchmark that runs a model."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--shape", default="qwen3-0.6b", choices=(*shapes.SHAPES, *more_shapes))
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, help="default: 120 web-120 on cpu, 120 web on cuda")
    parser.add_argument(
        "--documents", type=int, help=f"documents per call (default: 16 on cpu, about {CUDA_TOKENS:,} tokens on cuda)"
    )
    parser.add_argument("--web-median", type=float, default=300.0, help="median of the log-normal before truncation")
    parser.add_argument("--batch-tokens", type=int, help="tokens per step of nagfast (default: as extract)")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=env.cpu_count())


def resolve(options: argparse.Namespace) -> None:
    """Fill in the defaults that depend on the device: a GPU is warmed up, as its kernels compile in the first call."""
    cuda = options.device.startswith("cuda")
    torch.set_num_threads(options.threads)
    if options.lengths is None:
        options.lengths = ["120", "web" if cuda else "web-120"]
    if options.warmup is None:
        options.warmup = 1 if cuda else 0


def documents_of(options: argparse.Namespace, lengths: str, tokens: int = CUDA_TOKENS) -> int:
    """Documents of a call."""
    if options.documents is not None:
        return int(options.documents)
    return max(1, round(tokens / mean_size(lengths, options.web_median))) if options.device.startswith("cuda") else 16


def bundled_tokenizer() -> Any:
    """The tokenizer that comes with nagfast; every shape's vocabulary holds its ids."""
    from transformers import AutoTokenizer

    from nagfast.bundled import MODEL

    return AutoTokenizer.from_pretrained(MODEL)


def checked_backbone(model: nn.Module, name: str, device: str) -> Backbone:
    """A checked backbone around a model."""
    backbone = Backbone(model, bundled_tokenizer(), name, torch.device(device))
    backbone.prepare()
    return backbone


class Engines:
    """One model in its main arithmetic (float32 on the CPU, bfloat16 on GPUs) and others beside it.

    Attributes:
        main: dtype of the baselines.
        dtypes: what nagfast is measured in, main first.
        shape: its sizes; None of the bundled model, which is the one with trained weights.
        vocab: entries of its embedding.
    """

    def __init__(self, options: argparse.Namespace, *, bfloat16: bool = True, float8: bool = False) -> None:
        self.options, self.device = options, options.device
        self.shape = shapes.SHAPES.get(options.shape)
        if self.shape is not None and options.layers:
            self.shape = replace(self.shape, layers=options.layers)
        cuda = self.device.startswith("cuda")
        self.main = "bfloat16" if cuda else "float32"
        self.backbones = {self.main: checked_backbone(self._build(self.main), options.shape, self.device)}
        if bfloat16 and not cuda:
            twin = self._build("bfloat16")
            with torch.no_grad():
                for theirs, mine in zip(twin.parameters(), self.model.parameters(), strict=True):
                    theirs.copy_(mine)
            self.backbones["bfloat16"] = checked_backbone(twin, options.shape, self.device)
        self.dtypes = list(self.backbones)
        self._bfloat16_tier = self.backbones[self.main].fast
        self._float8_report: object = None
        self._float8_tier = self._with_float8() if float8 and cuda else None
        self.vocab = int(self.backbones[self.main].config.vocab_size)

    def _build(self, dtype: str) -> nn.Module:
        o = self.options
        if o.shape == "bundled":
            return Backbone.load("bundled", dtype=dtype, device=self.device, check=False).model
        return shapes.build(o.shape, dtype=getattr(torch, dtype), device=self.device, layers=o.layers)

    def _with_float8(self) -> Any:
        """The tier with float8 products beside the one without, or None where there is none."""
        backbone = self.backbones[self.main]
        if torch.cuda.get_device_capability(self.device) < (8, 9) or backbone.fast is None:
            return None
        try:
            backbone.use_float8()
        except (NagfastError, RuntimeError) as error:  # the others are measured all the same, and this is told
            self._float8_report = f"not measured: {str(error).splitlines()[0]}"
            return None
        tier, backbone.fast = backbone.fast, self._bfloat16_tier
        self._float8_report = backbone.float8_report
        self.dtypes.append("float8")
        return tier

    @property
    def model(self) -> nn.Module:
        """The model in its main arithmetic."""
        return self.backbones[self.main].model

    @property
    def layers(self) -> nn.ModuleList:
        """Its decoder layers."""
        return self.backbones[self.main].layers

    def nags(
        self, tokens: Tokens, dtype: str | None = None, *, impact: str = "projection", budget: int | None = None
    ) -> npt.NDArray[Any]:
        """NAGs of tokenised documents, as extract makes them.

        Args:
            tokens: documents.
            dtype: one of dtypes; default main.
            impact: projection or act_grad.
            budget: tokens per step; default --batch-tokens, or what extract takes.
        """
        if dtype == "float8":
            backbone = self.backbones[self.main]
            backbone.fast = self._float8_tier
            try:
                return self.nags(tokens, impact=impact, budget=budget)
            finally:
                backbone.fast = self._bfloat16_tier
        backbone = self.backbones[dtype or self.main]
        longest = max(map(len, tokens))
        specs = {"fwd_up": backbone.spec(top_k=self.options.top_k, impact=impact, max_length=longest)}
        return token_nags(backbone, tokens, specs, budget or self.options.batch_tokens)["fwd_up"]

    def padded(self, tokens: Tokens, **more: Any) -> list[list[list[int]]]:
        """The padded pipeline; to be called in eager attention."""
        return baselines.padded_nags(self.model, self.layers, tokens, self.options.top_k, **more)

    def expected(self, tokens: Tokens) -> npt.NDArray[np.int64]:
        """What nagfast is checked against: the padded pipeline in eager attention, sums in float32."""
        with baselines.attention(self.model):
            return np.array(self.padded(tokens, exact_sums=True))

    @contextmanager
    def attention(self, name: str = "eager") -> Iterator[None]:
        """Stock attention inside."""
        with baselines.attention(self.model, name):
            yield

    def about(self) -> dict[str, Any]:
        """How nagfast ran: the tier and why, and what float8 changed."""
        backbone = self.backbones[self.main]
        found = {"tier": f"{backbone.tier} ({backbone.tier_reason})"}
        return found | ({} if self._float8_report is None else {"float8": str(self._float8_report)})

    def release(self) -> None:
        """Let go of cached memory."""
        devices.release(self.device)
