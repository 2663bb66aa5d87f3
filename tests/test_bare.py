"""A machine with torch and little else: extract, profile, score and the harness work without the optional packages."""

import subprocess
import sys

ABSENT = ("faiss", "datasketch", "duckdb", "ray", "sklearn", "matplotlib", "zstandard", "datatrove", "datasets")

BLOCK = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""

PIPELINE = """
import json, pathlib
from nagfast.cli import main
import nagfast.benchmarks.__main__
from nagfast import Backbone, Scorer, TargetProfile
folder = pathlib.Path(sys.argv[1])
rows = [{"docid": str(i), "doc": f"number {i} and " * 3} for i in range(6)]
(folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
pool, profile = f"{folder}/pool.nag", f"{folder}/target.npz"
assert main(["extract", f"{folder}/pool.jsonl", "--out", pool, "--device", "cpu"]) == 0
assert main(["profile", pool, "--out", profile]) == 0
assert main(["score", pool, "--profile", profile, "--out", f"{folder}/scores.parquet"]) == 0
import pyarrow.parquet as pq
stored = 1 - pq.read_table(f"{folder}/scores.parquet")["nag_distance"].to_numpy()
backbone = Backbone.bundled(dtype="float32", device="cpu")
assert len(Scorer(backbone, TargetProfile.load(profile)).score(["a text"])) == 1
assert main(["doctor"]) == 0
assert len(stored) == 6 and stored.max() > 0.5
assert not {name.split(".")[0] for name in sys.modules} & set(%r)
""" % (ABSENT,)  # noqa: UP031 - braces abound


def test_extract_profile_score_and_the_harness_need_no_optional_package(tmp_path):
    command = [sys.executable, "-c", BLOCK + PIPELINE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_selecting_names_the_package_it_misses(tmp_path):
    select = ["select", "scores.parquet", "--payload", "pool.parquet", "--fraction", "0.5", "--out", "out.parquet"]
    code = BLOCK + f"from nagfast.cli import main; import os; os.chdir({str(tmp_path)!r}); sys.exit(main({select!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 2
    assert "pip install duckdb" in done.stderr and len(done.stderr.splitlines()) == 1
