"""The script for a bare GPU machine, on the CPU: links stand in for an install, steps are limited, nothing is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_suite.sh"


def suite(out, *arguments, python=sys.executable, **environment):
    settings = os.environ | {"OUT": str(out), "PYTHON": python, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [str(SCRIPT), *arguments], env=settings, capture_output=True, text=True, timeout=280, check=False
    )


def test_smoke_run_measures_and_sums_up(tmp_path):
    done = suite(tmp_path, "--smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    names = {json.loads(line)["benchmark"] for p in tmp_path.glob("*.jsonl") for line in p.read_text().splitlines()}
    assert names == {"extract", "breakdown"}
    assert (tmp_path / "extract-tiny.log").read_text().count("text to store") >= 1
    assert "extract-tiny: done" in done.stdout and "of ceiling" in done.stdout


def test_steps_can_be_picked_and_a_failure_is_told(tmp_path):
    done = suite(tmp_path, "--smoke", python="/bin/false", ONLY="extract-tiny")
    assert done.returncode == 1
    assert "extract-tiny: failed (1)" in done.stdout and "breakdown" not in done.stdout
    done = suite(tmp_path, "--smoke", python="/bin/false", SKIP="extract-tiny breakdown-tiny")
    assert done.returncode == 0 and "failed" not in done.stdout


def test_no_step_begins_when_the_budget_is_spent(tmp_path):
    done = suite(tmp_path, "--smoke", python="/bin/false", BUDGET="0")
    assert done.returncode == 0 and "extract-tiny: no time left" in done.stdout


def test_packages_that_were_carried_along_are_found(tmp_path):
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho searched: $PYTHONPATH\n")
    stand_in.chmod(0o755)
    done = suite(tmp_path, "--smoke", python=str(stand_in), ONLY="extract-tiny", PYTHONPATH="/wheels")
    assert done.returncode == 0 and re.search(r"searched: /\S+:/wheels\n", done.stdout)
