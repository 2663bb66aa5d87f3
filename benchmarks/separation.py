"""How well NAG similarity tells a target's domain from others: ROC-AUC on held-out documents.

    python -m benchmarks.separation CORPUS --backbone FOLDER_OR_ID [--top-k 5 10 20]

CORPUS holds heldout/*.parquet (one domain a file) and targets/*.parquet, columns docid, doc, dataset. For every target
set the held-out documents of its domain are the positives and those of all other domains the negatives, up to 300 per
domain, drawn with a fixed seed. Beside the backbone stand the same architecture and tokenizer with random weights, and
the cosine to a TF-IDF centroid (words, fitted without labels on the sampled held-out documents and the target sets):
as scikit-learn sets it up, with sublinear term frequencies, and with its English stop words removed; on the whole text,
and on the same first tokens that the backbone reads.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from benchmarks.harness import RESULTS, append_json, hash_inputs
from nagfast import env

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


def nag_scores(backbone: Any, sample: Sample, top_ks: Sequence[int], max_length: int) -> dict[int, Scores]:
    """NAG similarity to each target's profile, for several K from one extraction."""
    from nagfast.extraction import extract
    from nagfast.targets import TargetProfile

    widest = max(top_ks)
    pool = extract(sample.texts, backbone, top_k=widest, max_length=max_length)
    targets = {n: extract(t, backbone, top_k=widest, max_length=max_length) for n, t in sample.targets.items()}
    return {
        k: {n: TargetProfile.fit(t.with_top_k(k)).similarity(pool.with_top_k(k)) for n, t in targets.items()}
        for k in top_ks
    }


def random_twin(backbone: Any, seed: int) -> Any:
    """The same architecture and tokenizer with freshly initialised weights."""
    from transformers import AutoModelForCausalLM

    from nagfast.backbone import Backbone

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(backbone.config, dtype=backbone.dtype)
    twin = Backbone(model.to(backbone.device), backbone.tokenizer, "random weights", backbone.device)
    twin.prepare()
    return twin


def study(sample: Sample, backbone: Any | None, tokenizer: Any, options: argparse.Namespace) -> dict[str, Scores]:
    """Scores by method."""
    rows: dict[str, Scores] = {}
    if backbone is not None:
        trained = nag_scores(backbone, sample, options.top_k, options.max_length)
        random = nag_scores(random_twin(backbone, options.seed), sample, options.top_k, options.max_length)
        rows |= {f"nag K={k}": s for k, s in trained.items()}
        rows |= {f"nag K={k} random weights": s for k, s in random.items()}
    for name, settings in TFIDF.items():
        rows[f"{name}, whole text"] = tfidf_scores(sample.texts, sample.targets, **settings)
    if tokenizer is not None:
        texts = first_tokens(tokenizer, sample.texts, options.max_length)
        targets = {n: first_tokens(tokenizer, t, options.max_length) for n, t in sample.targets.items()}
        for name, settings in TFIDF.items():
            rows[f"{name}, {options.max_length} tokens"] = tfidf_scores(texts, targets, **settings)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print a table and append a JSON line per method."""
    parser = argparse.ArgumentParser(prog="benchmarks.separation", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--backbone", help="folder, hub id or bundled; left out: TF-IDF on the whole text only")
    parser.add_argument("--top-k", type=int, nargs="+", default=[5, 10, 20])
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
    rows = study(sample, backbone, backbone.tokenizer if backbone else None, options)
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
    }
    for method, scores in rows.items():
        areas = {n: roc_auc(sample.domains == TARGETS[n], s) for n, s in scores.items()}
        print(f"{method:38s}" + "".join(f"{areas[n]:18.4f}" for n in names))
        append_json(options.out, "separation", common | {"method": method, "auc": areas}, common["date"])
    print(json.dumps({k: common[k] for k in ("input_sha256", "fingerprint", "documents")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
