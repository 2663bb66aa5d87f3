"""How well NAG similarity tells a target's domain from others: ROC-AUC on held-out documents.

    nagfast bench separation CORPUS --backbone FOLDER_OR_ID [--top-k 5 10 20] [--impact projection act_grad]

CORPUS holds heldout/*.parquet (one domain a file) and targets/*.parquet, columns docid, doc, dataset. For every target
set the held-out documents of its domain are the positives and those of all other domains the negatives, up to 300 per
domain, drawn with a fixed seed. Beside the backbone stand the same architecture and tokenizer with random weights, and
the cosine to a TF-IDF centroid (words, fitted without labels on the sampled held-out documents and the target sets):
as scikit-learn sets it up, with sublinear term frequencies, and with its English stop words removed; on the whole text,
and on the same first tokens that the backbone reads. With two impacts the study also says how many neurons the two
NAGs of a document share, and what each costs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from nagfast import env
from nagfast.benchmarks.harness import RESULTS, append_json, hash_inputs
from nagfast.schema import IMPACTS

TARGETS = {"gsm8k_train_500": "math", "medical_500": "medical", "science_qa_500": "science_qa"}
TFIDF = {
    "tf-idf": {},
    "tf-idf sublinear": {"sublinear_tf": True},
    "tf-idf stop words": {"stop_words": "english"},
}
Scores = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Sample:
    """Held-out documents of all domains, and the target sets."""

    texts: list[str]
    domains: npt.NDArray[np.str_]
    targets: dict[str, list[str]]


def roc_auc(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """The chance that a positive scores above a negative, ties counting half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def _documents(path: Path, exclude_prefix: str) -> list[str]:
    table = pq.read_table(path, columns=["docid", "doc"]).to_pydict()
    pairs = zip(table["docid"], table["doc"], strict=True)
    return [text for docid, text in pairs if not (exclude_prefix and docid.startswith(exclude_prefix))]


def draw(corpus: Path, per_domain: int, seed: int, exclude_prefix: str = "") -> Sample:
    """Sample the held-out documents; the target sets are whole."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    domains: list[str] = []
    for path in sorted((corpus / "heldout").glob("*.parquet")):
        found = _documents(path, exclude_prefix)
        picked = np.sort(rng.permutation(len(found))[:per_domain])
        texts += [found[i] for i in picked]
        domains += [path.stem] * len(picked)
    present = {name: corpus / "targets" / f"{name}.parquet" for name in TARGETS}
    targets = {name: _documents(path, "") for name, path in present.items() if path.exists()}
    return Sample(texts, np.array(domains), targets)


def first_tokens(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[str]:
    """The part of each text that its first max_length tokens cover."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encoded = backend.encode_batch(list(texts), add_special_tokens=False)
    return [
        text[: e.offsets[max_length - 1][1]] if len(e.ids) > max_length else text
        for text, e in zip(texts, encoded, strict=True)
    ]


def tfidf_scores(texts: list[str], targets: dict[str, list[str]], **settings: Any) -> Scores:
    """Cosine of every text to the centroid of each target."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**settings).fit([*texts, *(t for part in targets.values() for t in part)])
    vectors = vectorizer.transform(texts)
    scores = {}
    for name, documents in targets.items():
        centroid = np.asarray(vectorizer.transform(documents).mean(axis=0)).ravel()
        scores[name] = np.asarray(vectors @ (centroid / np.linalg.norm(centroid)))
    return scores


@dataclass(frozen=True)
class Extracted:
    """NAGs of the sample by one impact, at the widest K."""

    pool: Any
    """NagBatch of the held-out documents."""
    targets: dict[str, Any]
    """NagBatch of each target set."""
    tokens_per_second: float
    """Over the whole sample, wall time."""
    tokens_per_cpu_second: float
    """The same by the processor time of this process: what a busy machine leaves alone."""

    def scores(self, k: int) -> Scores:
        """Similarity to each target's profile."""
        from nagfast.targets import TargetProfile

        pool = self.pool.with_top_k(k)
        return {n: TargetProfile.fit(t.with_top_k(k)).similarity(pool) for n, t in self.targets.items()}


def extract_sample(backbone: Any, sample: Sample, options: argparse.Namespace, impact: str) -> Extracted:
    """One extraction for all K."""
    from nagfast.extraction import extract

    settings = {"top_k": max(options.top_k), "max_length": options.max_length, "impact": impact}
    extract(sample.texts[:2], backbone, **settings)
    wall, cpu = time.perf_counter(), time.process_time()
    pool = extract(sample.texts, backbone, **settings)
    targets = {n: extract(t, backbone, **settings) for n, t in sample.targets.items()}
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    tokens = int(pool.tokens.sum()) + sum(int(t.tokens.sum()) for t in targets.values())
    return Extracted(pool, targets, tokens / wall, tokens / cpu)


def shared_neurons(a: Extracted, b: Extracted, k: int) -> float:
    """Mean share of the K neurons of a layer that two impacts agree on, over the held-out documents that have both."""
    from nagfast import reference

    both = ~(a.pool.empty | b.pool.empty)
    pairs = zip(a.pool.with_top_k(k).indices[both], b.pool.with_top_k(k).indices[both], strict=True)
    return float(np.mean([reference.overlap(x, y) for x, y in pairs]))


def random_twin(backbone: Any, seed: int) -> Any:
    """The same architecture and tokenizer with freshly initialised weights."""
    from transformers import AutoModelForCausalLM

    from nagfast.backbone import Backbone

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(backbone.config, dtype=backbone.dtype)
    twin = Backbone(model.to(backbone.device), backbone.tokenizer, "random weights", backbone.device)
    twin.prepare()
    return twin


def nag_rows(backbone: Any, sample: Sample, options: argparse.Namespace) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Scores by method, and what else there is to say about the impacts."""
    rows: dict[str, Scores] = {}
    found: dict[str, Extracted] = {}
    for impact in options.impact:
        label = "nag" if impact == "projection" else f"nag {impact}"
        found[impact] = extract_sample(backbone, sample, options, impact)
        rows |= {f"{label} K={k}": found[impact].scores(k) for k in options.top_k}
        if not options.only_nags:
            random = extract_sample(random_twin(backbone, options.seed), sample, options, impact)
            rows |= {f"{label} K={k} random weights": random.scores(k) for k in options.top_k}
    cost = {
        i: {"tokens/s": round(e.tokens_per_second, 1), "tokens/cpu s": round(e.tokens_per_cpu_second, 1)}
        for i, e in found.items()
    }
    more: dict[str, Any] = {"cost": cost, "threads": torch.get_num_threads()}
    if len(found) == 2:
        first, second = found.values()
        more["shared_neurons"] = {str(k): round(shared_neurons(first, second, k), 4) for k in options.top_k}
    return rows, more


def study(
    sample: Sample, backbone: Any | None, tokenizer: Any, options: argparse.Namespace
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Scores by method, and what else there is to say."""
    rows: dict[str, Scores] = {}
    more: dict[str, Any] = {}
    if backbone is not None:
        rows, more = nag_rows(backbone, sample, options)
    if options.only_nags:
        return rows, more
    for name, settings in TFIDF.items():
        rows[f"{name}, whole text"] = tfidf_scores(sample.texts, sample.targets, **settings)
    if tokenizer is not None:
        texts = first_tokens(tokenizer, sample.texts, options.max_length)
        targets = {n: first_tokens(tokenizer, t, options.max_length) for n, t in sample.targets.items()}
        for name, settings in TFIDF.items():
            rows[f"{name}, {options.max_length} tokens"] = tfidf_scores(texts, targets, **settings)
    return rows, more


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print a table and append a JSON line per method."""
    parser = argparse.ArgumentParser(prog="nagfast bench separation", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--backbone", help="folder, hub id or bundled; left out: TF-IDF on the whole text only")
    parser.add_argument("--top-k", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--impact", nargs="+", default=["projection"], choices=IMPACTS)
    parser.add_argument("--only-nags", action="store_true", help="neither random weights nor TF-IDF")
    parser.add_argument("--max-length", type=int, default=120)
    parser.add_argument("--per-domain", type=int, default=300)
    parser.add_argument("--exclude-prefix", default="", help="held-out docids that begin so are left out")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON lines")
    options = parser.parse_args(argv)
    sample = draw(options.corpus, options.per_domain, options.seed, options.exclude_prefix)
    backbone = None
    if options.backbone:
        from nagfast.backbone import Backbone

        backbone = Backbone.load(options.backbone, dtype=options.dtype, device="cpu")
    rows, more = study(sample, backbone, backbone.tokenizer if backbone else None, options)
    names = list(sample.targets)
    print(f"{'ROC-AUC':38s}" + "".join(f"{n:>18s}" for n in names))
    common = {
        "benchmark": "separation",
        "date": datetime.date.today().isoformat(),
        "backbone": options.backbone,
        "fingerprint": backbone.fingerprint if backbone else None,
        "max_length": options.max_length,
        "seed": options.seed,
        "exclude_prefix": options.exclude_prefix,
        "documents": {d: int((sample.domains == d).sum()) for d in sorted(set(sample.domains))},
        "input_sha256": hash_inputs(sample.texts, *sample.targets.values()),
        "machine": env.machine(),
        **more,
    }
    for method, scores in rows.items():
        areas = {n: roc_auc(sample.domains == TARGETS[n], s) for n, s in scores.items()}
        print(f"{method:38s}" + "".join(f"{areas[n]:18.4f}" for n in names))
        append_json(options.out, "separation", common | {"method": method, "auc": areas}, common["date"])
    print(json.dumps({k: common[k] for k in ("input_sha256", "fingerprint", "documents", *more)}))
    return 0
