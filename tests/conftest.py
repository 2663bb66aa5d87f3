"""Shared fixtures: the golden cases of the published reference."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("llama", "qwen3", "smollm3")


def read_golden_features(family, part):
    """Published NAGs: {docid: {neuron type: [L, K]}}."""
    settings = json.loads((GOLDEN / family / "settings.json").read_text())
    shape = (settings["num_layers"], settings["top_k"])
    records = {}
    for line in (GOLDEN / family / "features" / part / "part-0.jsonl").read_text().splitlines():
        record = json.loads(line)
        records[record["docid"]] = {
            t: np.array(record[f"{t}_feature"]["layer_topk_value_index"]).reshape(shape)
            for t in settings["neuron_types"]
        }
    return records


@pytest.fixture(scope="session", params=FAMILIES)
def golden(request):
    """One family: settings, folder, input tables, loaded backbone and published NAGs."""
    from nagfast.backbone import Backbone

    folder = GOLDEN / request.param
    return {
        "family": request.param,
        "folder": folder,
        "settings": json.loads((folder / "settings.json").read_text()),
        "pool": pq.read_table(folder / "pool"),
        "target": pq.read_table(folder / "target"),
        "pool_features": read_golden_features(request.param, "pool"),
        "target_features": read_golden_features(request.param, "target"),
        "backbone": Backbone.load(folder / "model", dtype="float32", device="cpu"),
    }
