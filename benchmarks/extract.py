"""Tokens to NAGs: nagfast, the padded eager pipeline, and the plain forward pass, on one model with random weights.

Variants, by the names --variants takes:

    padded        the published pipeline: eager attention, eight documents at a time
    padded-best   the same at the batch size that is fastest here (GPU)
    allocator     the same with the C library's own memory settings (CPU)
    hf, hf-body   a forward pass in SDPA that measures nothing, with lm_head and without: the cost of the model itself
    nagfast       the engine, in every arithmetic the device has
    text          the engine from a Parquet file of text to a store on disk: reading, tokenising, writing included
    score         text in memory to similarities, NAGs never written
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast import env
from nagfast.benchmarks import baselines, ceilings, devices, documents, engines
from nagfast.benchmarks.documents import Tokens, mean_overlap
from nagfast.benchmarks.harness import Benchmark, Check, Variant, hash_inputs, register
from nagfast.config import ExtractConfig
from nagfast.extract_job import run_extract
from nagfast.extraction import default_batch_tokens
from nagfast.extraction import extract as extract_texts
from nagfast.scorer import Scorer
from nagfast.steps import is_out_of_memory
from nagfast.targets import TargetProfile

OVERLAP = {"float32": 0.999, "bfloat16": 0.95, "float8": 0.75}
"""Least share of the top K in common with the baseline; float32 differs in near-ties alone, the others in rounding."""
CHECK_TOKENS = 8192
CUDA_FILES = 4  # a job of one file would be mostly its beginning and its end
TARGETS = 50  # documents of the profile that texts are scored against
VARIANTS = {
    "cpu": ("padded", "nagfast", "allocator"),
    "cuda": ("padded", "padded-best", "hf", "hf-body", "nagfast", "text", "score"),
}
BATCHES = (16, 32, 64, 128, 256)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the extract benchmark."""
    engines.add_options(parser)
    every = sorted({name for names in VARIANTS.values() for name in names})
    parser.add_argument("--variants", nargs="+", choices=every, help="what to time (default: what suits the device)")
    parser.add_argument("--force-bfloat16", action="store_true", help="measure bfloat16 on a CPU without such products")
    parser.add_argument("--no-bfloat16", action="store_true", help="float32 only (CPU)")
    parser.add_argument("--no-float8", action="store_true", help="bfloat16 only (GPU)")
    parser.set_defaults(rounds=4, warmup=None, min_seconds=0.0)


class _Texts:
    """Text to stored NAGs: files prepared beforehand, a new store in every call."""

    def __init__(self, run: engines.Engines, lengths: str, sizes: Any, sets: int, folder: Path) -> None:
        self.run, self.folder, self.calls = run, folder, 0
        self.backbone = run.backbones[run.dtypes[-1] if run.device == "cpu" else run.main]
        words = documents.one_token_words(self.backbone.tokenizer)
        self.longest = documents.LONGEST[lengths]
        # Documents of a fixed length are cut from longer ones, as they are in a corpus.
        whole = sizes if lengths == "web" else np.maximum(sizes, 4 * self.longest * (sizes == self.longest))
        self.texts = [documents.texts(whole, words, seed) for seed in range(sets)]
        self.at_once = 1 if run.device == "cpu" else len(self.texts)
        for seed, texts in enumerate(self.texts):
            table = pa.table({"docid": [f"{seed}-{i}" for i in range(len(texts))], "doc": texts})
            pq.write_table(table, folder / f"text-{seed}.parquet")

    def _numbers(self, round_number: int) -> list[int]:
        """Which files a call takes: one after the other on the CPU, all on a GPU."""
        return [(round_number + i) % len(self.texts) for i in range(self.at_once)]

    def score(self, scorer: Scorer, round_number: int) -> None:
        """The texts of a round against the profile."""
        scorer.score([text for number in self._numbers(round_number) for text in self.texts[number]])

    def scorer(self) -> Scorer:
        """Against the first documents."""
        few = self.texts[0][:TARGETS]
        nags = extract_texts(few, self.backbone, top_k=self.run.options.top_k, max_length=self.longest)
        return Scorer(self.backbone, TargetProfile.fit(nags), batch_tokens=self.run.options.batch_tokens)

    def store(self, round_number: int) -> None:
        """From the files of a round to a new store."""
        self.calls += 1
        o = self.run.options
        config = ExtractConfig(
            inputs=tuple(str(self.folder / f"text-{number}.parquet") for number in self._numbers(round_number)),
            out=str(self.folder / f"{self.calls}.nag"),
            top_k=o.top_k,
            max_length=self.longest,
            batch_tokens=o.batch_tokens,
        )
        run_extract(config, self.backbone)


class _Comparison:
    """One distribution of lengths."""

    def __init__(self, run: engines.Engines, lengths: str, folder: Path) -> None:
        self.run, self.options, self.lengths = run, run.options, lengths
        count = engines.documents_of(self.options, lengths)
        self.sizes = documents.draw_sizes(lengths, count, self.options.web_median, 100)
        self.sets = documents.rotating(self.sizes, self.options.rounds, run.vocab)
        self.cuda = run.device.startswith("cuda")
        backbone = run.backbones[run.main]
        self.batch_tokens = self.options.batch_tokens or default_batch_tokens(backbone, "projection")
        self.best_batch = baselines.BATCH
        self.folder = folder

    def _tokens(self, i: int) -> Tokens:
        return self.sets[i % len(self.sets)]

    def _few(self) -> Tokens:
        """Documents of the last set that make about CHECK_TOKENS."""
        ends = np.cumsum([len(t) for t in self.sets[-1]])
        return self.sets[-1][: max(1, int(np.searchsorted(ends, CHECK_TOKENS, side="right")))]

    def check(self) -> Check:
        """Same top-K sets as the baseline, near-ties and rounding aside."""
        few = self._few()
        expected = self.run.expected(few)
        overlaps = {d: mean_overlap(self.run.nags(few, d), expected) for d in self.run.dtypes}
        detail = {f"overlap_{d}": round(v, 6) for d, v in overlaps.items()}
        return Check(
            all(overlaps[d] >= OVERLAP[d] for d in overlaps),
            detail | {"checked_documents": len(few)} | self.run.about(),
        )

    def find_best_batch(self) -> None:
        """Double the batch of the padded pipeline as long as that makes it faster."""
        tokens = self._few() * 4
        fastest = float("inf")
        for batch in (baselines.BATCH, *BATCHES):
            try:
                with self.run.attention():
                    self.run.padded(tokens[:batch], batch=batch)
                    devices.synchronize(self.run.device)
                    begin = time.perf_counter()
                    self.run.padded(tokens, batch=batch)  # ends with a copy to the host
                    seconds = time.perf_counter() - begin
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.run.release()
                return
            if seconds >= fastest or batch > len(tokens):
                return
            fastest, self.best_batch = seconds, batch

    @contextmanager
    def _published_conditions(self) -> Iterator[None]:
        """Eager attention, and freed memory given back as glibc does by itself."""
        env.give_back_freed_memory()
        try:
            with self.run.attention():
                yield
        finally:
            env.keep_freed_memory()

    def _variants(self, wanted: tuple[str, ...]) -> Iterator[tuple[str, Variant, Any, str]]:
        """Label, call, context and dtype of each variant."""
        run, main = self.run, self.run.main
        eager: Callable[[], AbstractContextManager[None]] = run.attention
        if "padded" in wanted:
            yield f"padded eager {main}", lambda i: run.padded(self._tokens(i)), eager, main
        if "padded-best" in wanted:
            self.find_best_batch()
            best = self.best_batch
            yield f"padded eager {main}, {best} a batch", lambda i: run.padded(self._tokens(i), batch=best), eager, main
        for name, head in (("hf", True), ("hf-body", False)):
            if name in wanted:
                yield (
                    f"forward only, SDPA {main}, {'lm_head' if head else 'no lm_head'}",
                    lambda i, head=head: baselines.forward_only(  # type: ignore[misc]
                        run.model, self._tokens(i), self.batch_tokens, head=head
                    ),
                    lambda: run.attention("sdpa"),
                    main,
                )
        for dtype in run.dtypes if "nagfast" in wanted else ():
            yield f"nagfast {dtype}", lambda i, d=dtype: run.nags(self._tokens(i), d), None, dtype  # type: ignore[misc]
        if {"text", "score"} & {*wanted}:
            yield from self._text_variants(wanted)
        if "allocator" in wanted:
            label = f"padded eager {main}, default allocator"
            yield label, lambda i: run.padded(self._tokens(i)), self._published_conditions, main

    def _text_variants(self, wanted: tuple[str, ...]) -> Iterator[tuple[str, Variant, Any, str]]:
        files = CUDA_FILES if self.cuda else len(self.sets)
        texts = _Texts(self.run, self.lengths, self.sizes, files, self.folder)
        dtype = self.run.main if self.cuda else self.run.dtypes[-1]
        if "text" in wanted:
            yield f"nagfast {dtype}, text to store", texts.store, None, dtype
        if "score" in wanted:
            scorer = texts.scorer()
            yield f"nagfast {dtype}, text to scores", partial(texts.score, scorer), None, dtype

    def _notes(self) -> list[str]:
        notes = [
            "MFU counts what a NAG needs (no lm_head, the last layer cut short), whatever a variant does beyond it"
        ]
        if not self.cuda:
            notes.append(
                "nagfast and the first baseline keep freed memory for reuse, as the nagfast command does; default "
                "allocator: as the published pipeline would"
            )
        if "bfloat16" not in self.run.dtypes:
            notes.append(
                "bfloat16 was not measured: this processor has no bfloat16 matrix instructions, or --no-bfloat16"
            )
        return notes

    def benchmark(self) -> Benchmark:
        """All variants on these documents."""
        o, run = self.options, self.run
        wanted = tuple(o.variants or VARIANTS["cuda" if self.cuda else "cpu"])
        variants = {label: (call, around, dtype) for label, call, around, dtype in self._variants(wanted)}
        tokens, context = float(self.sizes.sum()), documents.mean_context(self.sizes)
        flops = run.shape.flops_per_token(context)
        reached = {dtype: ceilings.measured(o.device, dtype) for dtype in {d for _, _, d in variants.values()}}
        return Benchmark(
            name="extract",
            variants={label: call for label, (call, _, _) in variants.items()},
            check=self.check,
            units={"tokens": tokens, "documents": float(len(self.sizes))},
            around={label: around for label, (_, around, _) in variants.items() if around is not None},
            device=o.device,
            work={label: CUDA_FILES if self.cuda and "text to" in label else 1 for label in variants},
            flops_per_call=dict.fromkeys(variants, flops * tokens),
            ceilings={label: reached[dtype] for label, (_, _, dtype) in variants.items()},
            params={
                "shape": o.shape,
                "layers": run.shape.layers,
                "lengths": self.lengths,
                "mean_length": round(float(self.sizes.mean()), 1),
                "documents": len(self.sizes),
                "batch_tokens": self.batch_tokens,
                "baseline_batch": baselines.BATCH,
                "best_batch": self.best_batch,
                "top_k": o.top_k,
                "threads": o.threads,
                "flops_per_token": flops,
                "baseline_flops_per_token": run.shape.baseline_flops_per_token(),
            },
            input_hash=hash_inputs(*(d for tokens in self.sets for d in tokens)),
            notes=self._notes(),
        )


@register("extract", add_options)
def setup(options: argparse.Namespace) -> Iterator[Benchmark]:
    """Tokens, and text, to NAGs: nagfast, the padded eager pipeline, the plain forward pass."""
    engines.resolve(options)
    bfloat16 = not options.no_bfloat16 and (env.has_bfloat16_matrix() or options.force_bfloat16)
    run = engines.Engines(options, bfloat16=bfloat16, float8=not options.no_float8)
    with tempfile.TemporaryDirectory() as folder:
        for lengths in options.lengths:
            inside = Path(folder) / lengths
            inside.mkdir()
            yield _Comparison(run, lengths, inside).benchmark()
