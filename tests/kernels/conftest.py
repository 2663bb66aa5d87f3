"""Kernels run on CPU tensors in Triton's interpreter, or on a GPU; where there is none they compile all the same.

Triton reads TRITON_INTERPRET when it is imported, and an interpreting process cannot compile. So a process is one or
the other: plain `pytest` runs the files of ON_TENSORS in a child (test_interpreter.py), and on a GPU in this process
too. One of these files alone, with no GPU: TRITON_INTERPRET=1 pytest tests/kernels/test_bit_search.py
"""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COMPILED = ["test_compile.py", "test_compile_backward.py", "test_compile_forward.py", "test_cuda.py"]
COMPILED += ["test_interpreter.py"]
ON_TENSORS = sorted(p.name for p in Path(__file__).parent.glob("test_*.py") if p.name not in COMPILED)

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
elif INTERPRETED:
    collect_ignore = COMPILED
elif not torch.cuda.is_available():
    collect_ignore = ON_TENSORS
else:
    collect_ignore = ["test_backbone_kernels.py"]  # backbones on the CPU; test_cuda.py has them on the GPU


@pytest.fixture
def device():
    """Where the kernels take their tensors."""
    return torch.device("cpu" if INTERPRETED else "cuda")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Whatever torch.empty returns is full of the worst value of its dtype."""
    empty = torch.empty

    def poison(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        floating = tensor.dtype.is_floating_point
        return tensor.fill_(float("nan") if floating else torch.iinfo(tensor.dtype).max)

    monkeypatch.setattr(torch, "empty", poison)


@pytest.fixture(autouse=True, scope="session")
def exclusive_or_in_numpy():
    """The interpreter reduces by xor, of which sorting consists, element by element in Python: 50 times slower."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import ReduceOps

    element_by_element = ReduceOps.generic_reduce

    def reduce(self, inputs):
        if self.combine_fn is not tl.standard._xor_combine or self.axis is None:
            return element_by_element(self, inputs)
        found = np.bitwise_xor.reduce(inputs[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return [self.to_tensor(found, inputs[0].dtype)]

    ReduceOps.generic_reduce = reduce
    yield
    ReduceOps.generic_reduce = element_by_element
