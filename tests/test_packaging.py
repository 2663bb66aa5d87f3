"""What an install holds: kernels/ as nagfast.kernels, the bundled backbone, its sample, the type stub."""

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


def test_the_editable_install_finds_the_kernels(tmp_path):
    code = "import nagfast.kernels, nagfast._C; print(nagfast.kernels.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert Path(found.stdout.strip()).name == "__init__.py"


def test_the_bundled_model_is_small():
    files = list((ROOT / "nagfast" / "bundled" / "model").iterdir())
    assert sum(f.stat().st_size for f in files) < 16e6
