"""Steps: every document once whatever runs out of memory where; two under way; parts overlap."""

import numpy as np
import pytest
import torch

from nagfast.errors import NagfastError
from nagfast.steps import Steps


class Sums:
    """A part whose result is the sum of each document's tokens."""

    def __init__(self, lengths, seed=0):
        rng = np.random.default_rng(seed)
        self.tokens = [rng.integers(0, 100, n) for n in lengths]
        self.found = np.full(len(lengths), -1)

    def take(self, batch, result):
        assert (self.found[batch.rows] == -1).all(), "taken twice"
        self.found[batch.rows] = result

    def check(self):
        np.testing.assert_array_equal(self.found, [t.sum() if len(t) else -1 for t in self.tokens])


def sums(batch):
    return np.add.reduceat(batch.input_ids, batch.cu_seqlens[:-1])


class Device:
    """Starts batches, and runs out of memory above `limit` tokens, at the start or when the result is taken."""

    def __init__(self, limit=10**9, late=False, error=torch.OutOfMemoryError):
        self.limit, self.late, self.error = limit, late, error
        self.sizes, self.open, self.most = [], 0, 0

    def start(self, batch):
        self.sizes.append(len(batch.input_ids))
        fails = len(batch.input_ids) > self.limit
        if fails and not self.late:
            raise self.error("out of memory")
        self.open += 1
        self.most = max(self.most, self.open)
        return Started(self, batch, fails)


class Started:
    def __init__(self, device, batch, fails):
        self.device, self.batch, self.fails = device, batch, fails

    def result(self):
        self.device.open -= 1
        if self.fails:
            raise self.device.error("out of memory")
        return sums(self.batch)


def parts():
    rng = np.random.default_rng(3)
    return [Sums(rng.integers(0, 40, n), n) for n in (50, 0, 1, 7, 80)] + [Sums([0, 0])]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("limit", [10**9, 150, 60, 40])
def test_every_document_once(limit, late, caplog):
    device = Device(limit, late)
    given = parts()
    steps = Steps(device.start, 200, torch.device("cpu"))
    done = list(steps.run(given))
    assert sorted(map(id, done)) == sorted(map(id, given))
    for part in given:
        part.check()
    assert device.most == 2
    if limit < 200:
        assert caplog.text.count("out of memory") == len(set(caplog.messages)) <= 3
        assert steps.batch_tokens <= limit
        last = device.sizes[-3:]  # of the last part: nothing too large is tried any more
        assert max(last) <= limit
    else:
        assert not caplog.text and steps.batch_tokens == 200


def test_a_smaller_size_is_kept_for_later_parts():
    device = Device(90)
    steps = Steps(device.start, 200, torch.device("cpu"))
    for _ in range(3):
        list(steps.run([Sums([20] * 40)]))
    assert [s for s in device.sizes if s > 90] == [200, 100]
    assert steps.batch_tokens == 50


def test_the_next_part_starts_before_the_last_one_is_taken():
    events = []

    class Noted:
        def __init__(self, batch):
            self.batch = batch
            events.append("start")

        def result(self):
            events.append("take")
            return sums(self.batch)

    given = [Sums([5]), Sums([6]), Sums([7])]
    for part in Steps(Noted, 100, torch.device("cpu")).run(given):
        part.check()
    assert events == ["start", "start", "take", "start", "take", "take"]


def test_a_document_that_does_not_fit_is_named():
    steps = Steps(Device(10).start, 200, torch.device("cpu"))
    with pytest.raises(NagfastError, match="one document of 12 tokens"):
        list(steps.run([Sums([3, 12, 4])]))


@pytest.mark.parametrize("late", [False, True])
def test_other_errors_come_through(late):
    device = Device(10, late, RuntimeError)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(Steps(device.start, 200, torch.device("cpu")).run([Sums([30, 30])]))


@pytest.mark.parametrize(
    "message",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_other_words_for_out_of_memory(message):
    def start(batch):
        if len(batch.rows) > 1:
            raise RuntimeError(message)
        return Started(Device(), batch, False)

    part = Sums([3, 4, 5])
    assert list(Steps(start, 200, torch.device("cpu")).run([part])) == [part]
    part.check()
