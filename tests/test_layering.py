"""Imports point down: every module has a layer, and imports only its own layer or lower ones."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"errors", "schema", "config", "env", "ranks"},
    {"reference", "reference_sets", "_C", "kernels", "bundled"},
    {
        "ops",
        "packing",
        "prefix",
        "overlap",
        "progress",
        "files",
        "quarantine",
        "inputs",
        "records",
        "jsonl",
        "manifest",
        "shards",
    }
    | {"arrays", "store_writer", "store", "interchange", "duck", "relations", "similarity", "minhash"},
    {
        "placing",
        "sinks",
        "varlen",
        "attention",
        "fingerprints",
        "taps",
        "merging",
        "mlp",
        "generic",
        "checking",
        "plain",
        "products",
        "float8",
        "runner",
        "loading",
        "backbone",
        "head",
        "mlp_backward",
        "gradients",
        "targets",
        "profile_tables",
        "score_file",
        "scoring",
        "pool",
        "selection",
        "search",
    },
    {"steps", "text_shards", "extraction", "extract_job", "similarities", "score_text"},
    {"scorer", "adapters", "analysis", "bundled.train"},
    {"commands", "doctor", "cli", "__init__", "demo", "benchmarks"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_name(path):
    """nagfast/store.py -> store, nagfast/analysis/tsne.py -> analysis, kernels/x.py -> kernels."""
    for beside in ("kernels", "benchmarks"):
        if path.is_relative_to(ROOT / beside):
            return beside
    parts = path.relative_to(ROOT / "nagfast").with_suffix("").parts
    dotted = ".".join(parts)
    return dotted if dotted in RANK else parts[0]


def imported(path):
    """Names of nagfast modules that a file imports anywhere, in functions too; type-only imports do not count."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("nagfast.") for a in node.names if a.name.startswith("nagfast."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nagfast":
            inside = node.module.removeprefix("nagfast").removeprefix(".")
            names = [inside] if inside else [a.name for a in node.names]
            yield from ("__init__" if name.startswith("__") else name for name in names)


MODULES = sorted(path for room in ("nagfast", "kernels", "benchmarks") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = module_name(path)
    assert own in RANK, f"{own} has no layer: give it one in LAYERS"
    for name in imported(path):
        target = name if name in RANK else name.split(".")[0]
        assert target in RANK, f"{path.name} imports {name}, which has no layer"
        assert RANK[target] <= RANK[own], f"{own} (layer {RANK[own]}) imports {target} (layer {RANK[target]}) upward"


def test_there_are_modules_to_check():
    assert len(MODULES) > 20
