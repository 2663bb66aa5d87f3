"""Where the golden cases of the published reference lie, and how to read their features."""

import json
from pathlib import Path

import numpy as np

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
