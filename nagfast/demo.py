"""nagfast demo: the main job, text to selected corpus and report, with the bundled backbone on the bundled sample."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from nagfast import commands
from nagfast import config as configs
from nagfast.analysis.report import collect, write_report
from nagfast.backbone import Backbone
from nagfast.bundled import SAMPLE
from nagfast.commands import say
from nagfast.extract_job import run_extract
from nagfast.inputs import Columns, find_sources, read_rows
from nagfast.store import NagStore
from nagfast.targets import TargetProfile

SHOWN_TARGETS = 3


def demo(config: configs.DemoConfig) -> int:
    """Extract, rank, select and report; every step is a command of its own that works the same on other files."""
    begun = time.monotonic()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    out = Path(config.out)
    inputs = {name: str(SAMPLE / f"{name}.jsonl") for name in ("target", "pool")}
    backbone = Backbone.bundled()
    say(f"bundled backbone: {backbone.num_layers} layers of {backbone.num_neurons():,} neurons, on {backbone.device}")
    for name, path in inputs.items():
        settings = configs.ExtractConfig(
            inputs=(path,), out=str(out / name), keep="dataset", count_tokens=True, overwrite=True
        )
        summary = run_extract(settings, backbone)
        rate = summary.tokens / max(summary.seconds, 1e-9)
        say(f"{name}: {summary.documents} documents, {summary.tokens:,} tokens, {rate:,.0f} tokens/s -> {out / name}")
    selected = out / "selected.parquet"
    code = commands.rank(
        configs.RankConfig(
            store=(str(out / "pool"),),
            target=str(out / "target"),
            payload=(inputs["pool"],),
            out=str(selected),
            fraction=config.fraction,
            threads=config.threads,
        )
    )
    say()
    _print_ranking(out / "selected.scores.parquet", selected)
    targets = next(read_rows(find_sources([inputs["target"]])[0], Columns())).texts[:SHOWN_TARGETS]
    profile = TargetProfile.load(out / "selected.profile.npz")
    data = collect(NagStore.open(out / "pool"), profile, inputs["pool"], selected, target_texts=targets)
    write_report(out / "report.html", data)
    say(f"\nreport: {out / 'report.html'}")
    say(f"done in {time.monotonic() - begun:.1f} s")
    return code


def _print_ranking(scores_path: Path, selected_path: Path) -> None:
    """The domains of the pool, nearest first, and how much of each was selected."""
    scores = pq.read_table(scores_path, columns=["docid", "nag_distance", "dataset"])
    chosen = set(pq.read_table(selected_path, columns=["docid"])["docid"].to_pylist())
    domains: dict[str, list[tuple[float, bool]]] = {}
    for docid, distance, domain in zip(*(column.to_pylist() for column in scores.columns), strict=True):
        domains.setdefault(domain, []).append((distance, docid in chosen))
    medians = {domain: float(np.median([d for d, _ in values])) for domain, values in domains.items()}
    say(f"{'domain':<14}{'documents':>10}{'selected':>10}{'median distance':>18}")
    for domain in sorted(domains, key=medians.__getitem__):
        taken = sum(is_chosen for _, is_chosen in domains[domain])
        say(f"{domain:<14}{len(domains[domain]):>10}{taken:>10}{medians[domain]:>18.4f}")
