"""The benchmark of the kernels: every check passes and every variant runs, on as little as there is."""

from argparse import Namespace

import pytest
import torch

from nagfast.benchmarks import kernels

SIZES = {"documents": 2, "length": 5, "hidden": 32, "neurons": 40, "heads": 2, "head_dim": 8, "top_k": 3, "profiles": 2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_comparison_runs(dtype, device):
    names = []
    for comparison in kernels.comparisons(Namespace(**SIZES, dtype=dtype), device):
        names.append(comparison.name)
        if device.type == "cuda" or not names[-1].endswith("quantize_rows"):  # the interpreter rounds otherwise
            found = comparison.check()
            assert found.passed, found.detail
        for call in comparison.variants.values():
            call(1)
    assert len(names) == len(set(names)) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="kernels needs a CUDA device"):
        next(kernels.kernels(Namespace(**SIZES, dtype="float32")))
