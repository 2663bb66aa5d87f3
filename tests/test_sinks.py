"""What becomes of measured impacts."""

import numpy as np
import pytest
import torch

from nagfast import ops, reference
from nagfast.errors import ArgumentError
from nagfast.sinks import ImpactSink, NagSink, Pending, SumSink

CPU = torch.device("cpu")


def draw(rows=5, neurons=37, seed=0):
    return torch.rand(rows, neurons, generator=torch.Generator().manual_seed(seed)).round(decimals=1)  # with ties


@pytest.mark.parametrize("neurons", [37, 70_001])
def test_nags_land_in_their_layer_and_rows(neurons):
    sink = NagSink(5, 2, {"fwd_up": neurons, "att_o": 16}, 4, CPU)
    first, second, other = draw(2, neurons), draw(3, neurons, 1), draw(5, 16, 2)
    sink.take("fwd_up", 1, slice(0, 2), first)
    sink.take("fwd_up", 1, slice(2, 5), second)
    sink.take("att_o", 0, slice(0, 5), other)
    found = sink.pending().result()
    assert found["fwd_up"].dtype == (np.uint16 if neurons < 65_536 else np.uint32)
    np.testing.assert_array_equal(found["fwd_up"][:, 1], reference.topk(torch.cat([first, second]).numpy(), 4))
    np.testing.assert_array_equal(found["att_o"][:, 0], reference.topk(other.numpy(), 4))
    assert not found["fwd_up"][:, 0].any() and not found["att_o"][:, 1].any()


def test_sums_add_up_over_layers():
    table = torch.randint(0, 1000, (2, 37, 3), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    sink, nags = SumSink(5, table, 4), NagSink(5, 2, {"fwd_up": 37}, 4, CPU)
    for layer in (1, 0):
        for rows, seed in ((slice(0, 2), 10 + layer), (slice(2, 5), 20 + layer)):
            impacts = draw(rows.stop - rows.start, seed=seed)
            sink.take("fwd_up", layer, rows, impacts)
            nags.take("fwd_up", layer, rows, impacts)
    found = sink.pending().result()
    np.testing.assert_array_equal(found, ops.score(nags.pending().result()["fwd_up"], table.numpy().astype(np.uint32)))


def test_impacts_are_not_a_number_until_measured():
    sink = ImpactSink(5, 2, {"fwd_up": 37}, CPU)
    impacts = draw()
    sink.take("fwd_up", 1, slice(0, 5), impacts)
    impacts.zero_()  # the caller's buffer is its own again
    found = sink.result()["fwd_up"]
    assert np.isnan(found[:, 0]).all()
    np.testing.assert_array_equal(found[:, 1], draw().numpy())


def test_a_set_flag_is_an_error_of_the_result():
    """How a GPU reports what is not a number: after the batch, not in each layer."""
    pending = Pending({"x": torch.zeros(2)}, torch.ones(1, dtype=torch.int32), dict)
    with pytest.raises(ArgumentError, match="NaN"):
        pending.result()


def test_the_result_is_made_when_asked_for():
    pending = Pending({"x": torch.arange(3)}, torch.zeros(1, dtype=torch.int32), lambda found: found["x"].sum())
    assert pending.result() == 3
