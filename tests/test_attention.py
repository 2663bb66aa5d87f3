"""Packed attention: every way of computing it against scores written out, and what is asked of torch's kernel."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nagfast import attention, ops, varlen
from nagfast.attention import Scoring, attend
from nagfast.placing import Documents

LENGTHS = (19, 19, 11, 7, 7, 7, 2, 1)
CPU = torch.device("cpu")


def boundaries(lengths=LENGTHS):
    ends = np.concatenate([[0], np.cumsum(lengths)])
    starts = [i for i, n in enumerate(lengths) if i == 0 or n != lengths[i - 1]]
    runs = [(int(ends[i]), lengths.count(lengths[i]), lengths[i]) for i in starts]
    return Documents(ends, runs, max(lengths), torch.from_numpy(ends.astype(np.int32)))


def draw(heads=4, kv_heads=2, dim=16, value_dim=16, lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = ((heads, dim), (kv_heads, dim), (kv_heads, value_dim))
    return [torch.randn(sum(lengths), *w, generator=generator) for w in widths]


def written_out(q, k, v, ends, scale, window=None, softcap=None, sinks=None):
    """One document, one head, one query at a time."""
    out = torch.zeros(*q.shape[:2], v.shape[2])
    for a, b in pairwise(ends):
        for head in range(q.shape[1]):
            shared = head // (q.shape[1] // k.shape[1])
            for t in range(a, b):
                first = a if window is None else max(a, t - window + 1)
                scores = scale * (k[first : t + 1, shared] @ q[t, head])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if sinks is not None:
                    scores = torch.cat([scores, sinks[head : head + 1]])
                weights = torch.softmax(scores, 0)[: t + 1 - first]
                out[t, head] = weights @ v[first : t + 1, shared]
    return out


SCORINGS = {
    "plain": {},
    "window": {"window": 5},
    "window of one": {"window": 1},
    "wide window": {"window": 19},
    "cap": {"softcap": 0.7},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "all": {"window": 6, "softcap": 0.7, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
}


@pytest.fixture(params=[True, False], ids=["C++", "torch"])
def fused(request, monkeypatch):
    """Whether the C++ attention takes what it can; the other calls are counted."""
    if request.param and ops.native().available_isas()[-1] == "scalar":
        pytest.skip("no vector instructions")
    monkeypatch.setenv("NAGFAST_ISA", "auto" if request.param else "scalar")
    return request.param


def test_which_attention_runs(fused, monkeypatch):
    calls = []
    torchs = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", lambda *a, **o: calls.append(a) or torchs(*a, **o))
    q, k, v = draw()
    attend(q, k, v, boundaries(), Scoring(0.3))
    assert bool(calls) != fused
    attend(q.requires_grad_(), k, v, boundaries(), Scoring(0.3)).sum().backward()
    assert calls and q.grad is not None


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_runs_of_equal_length(scoring, kv_heads, fused):
    q, k, v = draw(kv_heads=kv_heads)
    documents = boundaries()
    found = attend(q, k, v, documents, Scoring(0.3, **SCORINGS[scoring]))
    expected = written_out(q, k, v, documents.cu_seqlens, 0.3, **SCORINGS[scoring])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_columns_of_a_merged_product(fused):
    q, k, v = draw()
    documents = boundaries()
    merged = torch.cat([q, k, v], dim=1).contiguous()
    views = merged.split([4, 2, 2], dim=1)
    torch.testing.assert_close(attend(*views, documents, Scoring(0.3)), attend(q, k, v, documents, Scoring(0.3)))


def test_values_of_another_width(fused):
    q, k, v = draw(value_dim=8)
    documents = boundaries()
    found = attend(q, k, v, documents, Scoring(0.3))
    torch.testing.assert_close(found, written_out(q, k, v, documents.cu_seqlens, 0.3), rtol=1e-5, atol=1e-6)


def test_what_transformers_passes_reaches_the_scores():
    q, k, v = draw()
    documents, sinks = boundaries(), torch.tensor([0.5, -1.0, 2.0, 0.0])
    module = torch.nn.Identity()
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    options = {"scaling": 0.3, "sliding_window": 6, "softcap": 0.7, "s_aux": sinks, "documents": documents}
    with attention.watched() as calls:
        found, _ = attention.packed_attention(module, *heads_first, None, **options)
    torch.testing.assert_close(found[0], written_out(q, k, v, documents.cu_seqlens, 0.3, 6, 0.7, sinks))
    seen = calls.scoring[module]
    assert (calls.calls, seen.scale, seen.window, seen.softcap) == (1, 0.3, 6, 0.7) and seen.sinks is sinks
    with pytest.raises(ValueError, match="masks are not supported"):
        attention.packed_attention(module, *heads_first, torch.zeros(1), documents=documents)
    with pytest.raises(ValueError, match="does not pass the packed batch on"):
        attention.packed_attention(module, *heads_first, None)


# --- torch's kernel: its two signatures, stood in for -----------------------------------------------------------------


def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size):
    """What varlen_attn computes, written out; windows as (tokens to the left, 0)."""
    assert torch.equal(cu_seq_q, cu_seq_k) and cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert window_size[1] == 0 and all(x.stride(-1) == 1 for x in (query, key, value))
    window = None if window_size[0] < 0 else window_size[0] + 1
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return written_out(query.float(), key.float(), value.float(), cu_seq_q.tolist(), scale, window).to(query.dtype)


def torch_2_11(*, refuses=False, ignores=False):
    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
    ):
        grouped = query.shape[1] != key.shape[1]
        varlen_attn.grouped.append(grouped)
        if grouped and refuses:
            raise RuntimeError("Number of heads in key/value must divide number of heads in query")
        if grouped and ignores:
            return torch.zeros_like(query)
        return kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)

    varlen_attn.grouped = []
    return varlen_attn


def torch_2_13():
    def varlen_attn(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        return_aux=None,
        scale=None,
        window_size=(-1, -1),
        enable_gqa=False,
        seqused_k=None,
        block_table=None,
        num_splits=None,
    ):
        if query.shape[1] != key.shape[1] and not enable_gqa:
            raise ValueError("Try setting enable_gqa=True for GQA.")
        assert num_splits == 1 and seqused_k is None and block_table is None
        varlen_attn.grouped.append(query.shape[1] != key.shape[1])
        return kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, window_size)

    varlen_attn.grouped = []
    return varlen_attn


@pytest.mark.parametrize(
    ("make", "grouped"),
    [
        (torch_2_11, True),
        (lambda: torch_2_11(refuses=True), False),
        (lambda: torch_2_11(ignores=True), False),
        (torch_2_13, True),
    ],
)
@pytest.mark.parametrize("window", [None, 1, 5])
def test_both_signatures(make, grouped, window):
    q, k, v = draw()
    documents, function = boundaries(), make()
    found = varlen.attend(q, k, v, documents, 0.3, window, function)
    torch.testing.assert_close(found, written_out(q, k, v, documents.cu_seqlens, 0.3, window), rtol=1e-5, atol=1e-6)
    assert function.grouped[-1] == grouped
    once = len(function.grouped)
    varlen.attend(q, k, v, documents, 0.3, window, function)
    assert len(function.grouped) == once + 1  # tried only once
    varlen.attend(q, *draw(kv_heads=4)[1:], documents, 0.3, window, function)
    assert function.grouped[-1] is False


def test_torch_has_the_parameters_that_are_passed():
    function = varlen.torch_function()
    assert function is not None
    assert {"scale", "window_size", "cu_seq_q", "max_k"} <= varlen._parameters(function)


@pytest.mark.parametrize(
    ("dtype", "dim", "value_dim", "expected"),
    [
        (torch.bfloat16, 128, 128, True),
        (torch.float16, 64, 64, True),
        (torch.float32, 64, 64, False),
        (torch.bfloat16, 60, 60, False),
        (torch.bfloat16, 264, 264, False),
        (torch.bfloat16, 192, 128, False),
    ],
)
def test_what_the_kernel_takes(dtype, dim, value_dim, expected):
    class OnGpu:
        is_cuda = True

        def __init__(self, width):
            self.dtype, self.shape = dtype, torch.Size([3, 4, width])

    assert varlen.fits(OnGpu(dim), OnGpu(value_dim)) == expected
    assert not varlen.fits(torch.zeros(3, 4, 64, dtype=torch.bfloat16), torch.zeros(3, 4, 64, dtype=torch.bfloat16))


def test_attend_takes_the_kernel_where_it_fits(monkeypatch):
    q, k, v = draw()
    documents, function = boundaries(), torch_2_13()
    monkeypatch.setattr(varlen, "fits", lambda *_: True)
    monkeypatch.setattr(varlen, "torch_function", lambda: function)
    torch.testing.assert_close(
        attend(q, k, v, documents, Scoring(0.3)), written_out(q, k, v, documents.cu_seqlens, 0.3)
    )
    assert len(function.grouped) == 1
    for scoring in (Scoring(0.3, softcap=0.7), Scoring(0.3, sinks=torch.zeros(4))):
        attend(q, k, v, documents, scoring)
    assert len(function.grouped) == 1
