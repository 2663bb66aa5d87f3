"""Shared fixtures: the golden cases of the published reference."""

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow.parquet as pq
import pytest
import torch
from golden_cases import FAMILIES, GOLDEN, read_golden_features

torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


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
