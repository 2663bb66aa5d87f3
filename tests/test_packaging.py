"""What an install holds: kernels/ and benchmarks/ inside nagfast, the bundled backbone, its sample, the type stub."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The Python part of a wheel."""
    folder = tmp_path_factory.mktemp("lib")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "nagfast/kernels/__init__.py",
        "nagfast/kernels/bit_search.py",
        "nagfast/benchmarks/__main__.py",
        "nagfast/benchmarks/harness.py",
        "nagfast/adapters/reference.py",
        "nagfast/analysis/report/page.py",
        "nagfast/bundled/model/model.safetensors",
        "nagfast/bundled/model/tokenizer.json",
        "nagfast/bundled/model/README.md",
        "nagfast/bundled/sample/pool.jsonl",
        "nagfast/bundled/sample/target.jsonl",
        "nagfast/py.typed",
        "nagfast/_C.pyi",
    ],
)
def test_a_wheel_holds(built, name):
    assert (built / name).is_file()


def test_a_wheel_holds_nothing_else_of_the_top_level(built):
    assert [p.name for p in built.iterdir()] == ["nagfast"]


@pytest.mark.parametrize("name", ["kernels", "benchmarks"])
def test_the_editable_install_finds(name, tmp_path):
    code = f"import nagfast._C, nagfast.{name} as found; print(found.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("program", [["-m", "nagfast.benchmarks"], ["-m", "nagfast.cli", "bench"]])
def test_the_harness_is_one_command_with_two_names(program, tmp_path):
    command = [sys.executable, *program, "--help"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "usage: nagfast bench" in done.stdout


def test_results_of_an_installed_harness_go_to_the_current_folder(built, tmp_path):
    code = "from nagfast.benchmarks.harness import RESULTS; print(RESULTS)"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(built), *sys.path]!r}; {code}"]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "bench-results"


def test_the_bundled_model_is_small():
    files = list((ROOT / "nagfast" / "bundled" / "model").iterdir())
    assert sum(f.stat().st_size for f in files) < 16e6
