"""Tokenising on one thread: the first tokens from the first characters, beside the whole text cut afterwards."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from nagfast.benchmarks.harness import Benchmark, Check, hash_inputs, register
from nagfast.packing import encode
from nagfast.prefix import encode_first


def made_up_texts(documents: int, characters: int, seed: int) -> list[str]:
    """Documents of about `characters` characters: words of English letter frequencies, Zipf-distributed, punctuated."""
    rng = np.random.default_rng(seed)
    letters, weights = list("etaoinshrdlucmfwypvbgkjqxz"), 1 / np.arange(1, 27) ** 0.7
    lengths = np.clip(rng.poisson(4.5, 5000), 1, 14)
    words = np.array(["".join(rng.choice(letters, n, p=weights / weights.sum())) for n in lengths])
    texts = []
    for _ in range(documents):
        chosen = words[np.minimum(rng.zipf(1.25, characters // 5) - 1, len(words) - 1)]
        ends = rng.choice([" ", ", ", ". ", "\n\n", " 1984 "], len(chosen), p=[0.84, 0.07, 0.06, 0.01, 0.02])
        texts.append("".join(np.char.add(chosen, ends))[:characters])
    return texts


def _texts(options: argparse.Namespace) -> list[list[str]]:
    if options.input is None:
        return [made_up_texts(options.documents, options.characters, seed) for seed in range(3)]
    from nagfast.inputs import Columns, find_sources, read_rows

    columns = Columns(options.text_column, options.id_column)
    rows = (text for source in find_sources([options.input]) for r in read_rows(source, columns) for text in r.texts)
    whole = [text for text in rows if text]
    longer, at = [], 0
    while len(longer) < 3 * options.documents:  # short documents are put together until they are long enough
        text = ""
        while len(text) < options.characters:
            text += whole[at % len(whole)] + "\n"
            at += 1
        longer.append(text[: options.characters])
    return [longer[i::3] for i in range(3)]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--documents", type=int, default=1000, help="documents per call")
    parser.add_argument("--characters", type=int, default=4000, help="characters of a document")
    parser.add_argument("--max-length", type=int, default=120, help="tokens kept")
    parser.add_argument("--tokenizer", default="bundled", help="bundled, a folder or a hub id")
    parser.add_argument("--input", help="real text in place of made-up words: file, folder or glob")
    parser.add_argument("--text-column", default="doc")
    parser.add_argument("--id-column", default="docid")
    parser.set_defaults(rounds=9, warmup=1, min_seconds=0.2)


@register("tokenize", _options)
def tokenize(options: argparse.Namespace) -> Iterator[Benchmark]:
    """First tokens of long documents: exact prefix against full encoding, one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    from nagfast.bundled import MODEL

    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL if options.tokenizer == "bundled" else options.tokenizer)
    sets, n = _texts(options), options.max_length
    expected = [encode(tokenizer, texts, n)[0] for texts in sets]
    kept = float(np.mean([sum(map(len, tokens)) for tokens in expected]))

    def check() -> Check:
        found = [encode_first(tokenizer, texts, n) for texts in sets]
        same = [np.array_equal(a, b) for f, e in zip(found, expected, strict=True) for a, b in zip(f, e, strict=True)]
        return Check(all(same), {"documents_checked": len(same), "documents_equal": sum(same)})

    yield Benchmark(
        name="tokenize",
        variants={
            "whole text": lambda i: encode(tokenizer, sets[i % 3], n),
            "exact prefix": lambda i: encode_first(tokenizer, sets[i % 3], n),
        },
        check=check,
        units={"kept tokens": kept, "documents": options.documents},
        params={
            "documents": options.documents,
            "characters": options.characters,
            "max_length": n,
            "tokenizer": options.tokenizer,
            "vocabulary": len(tokenizer),
            "text": "made up" if options.input is None else "real",
            "threads": 1,
        },
        input_hash=hash_inputs(*sets),
        notes=["kept tokens: those within max_length; both variants end in the same arrays"],
    )
