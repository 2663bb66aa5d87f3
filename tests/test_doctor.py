"""nagfast doctor: which backend every operation takes where, and why."""

import pytest
import torch

from nagfast import doctor, env, ops
from nagfast.cli import main

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPERATIONS = list(doctor._calls())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_what_it_takes_without_running(name):
    assert doctor.backend_of(name, CPU) in {"cpp", "reference"}
    assert doctor.backend_of(name, CUDA) in {"triton", "reference"}


def test_the_answer_is_what_then_runs():
    assert doctor.backend_of("swiglu_backward", CPU) == "cpp"
    pytest.importorskip("triton")
    assert doctor.backend_of("swiglu_backward", CUDA) == doctor.backend_of("softmax_gradient", CUDA) == "triton"


def test_operations_run_again_afterwards():
    doctor.backend_of("topk", CUDA)
    assert ops.topk(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist() == [[1, 2]]


def test_every_operation_on_tensors_is_listed():
    others = {
        "Answer",
        "asking",
        "check_broken",
        "check_nags",
        "index_dtype",
        "isa",
        "native",
        "resolve",
        "resolve_for",
    }
    others |= {"thread_count", "torch_index_dtype", "count", "score", "ACTIVATIONS", "BACKENDS", "MAX_PROFILES"}
    others |= {"Impacts", "Partials", "finished", "add_rms_norm_quantized"}
    assert set(ops.__all__) - others - {"quantize_rows", "product", "takes_attention"} == set(OPERATIONS)


def test_without_triton_and_extension(monkeypatch, capsys):
    monkeypatch.setattr(ops.dispatch, "find_spec", lambda _name: None)
    monkeypatch.setattr(ops.dispatch, "native", lambda: None)
    monkeypatch.setattr(ops, "native", lambda: None)
    monkeypatch.setattr(env, "version", lambda _package: None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "triton is not installed" in out and "nagfast._C is not built" in out
    assert 'pip install "nagfast[triton]"' in out and "pip install duckdb" in out
    assert "cpp" not in out


def test_what_it_prints(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "--dtype: float8 needs" in out or "--dtype float8: possible" in out
    assert max(map(len, out.splitlines())) <= 120
