"""Stages side by side: order, where items are taken, how far ahead, and errors."""

import threading

import pytest

from nagfast.overlap import map_ahead


def test_results_come_in_order_and_one_ahead():
    taken, done = [], []

    def items():
        for i in range(5):
            taken.append((i, threading.current_thread()))
            yield i

    def square(i):
        done.append(threading.current_thread())
        return i * i

    found = []
    for value in map_ahead(square, items()):
        found.append(value)
        assert len(taken) <= len(found) + 1
    assert found == [0, 1, 4, 9, 16]
    assert {thread for _, thread in taken} == {threading.current_thread()}
    assert threading.current_thread() not in done and len(set(done)) == 1
    assert list(map_ahead(square, [])) == []


def test_errors_come_out():
    with pytest.raises(ZeroDivisionError):
        list(map_ahead(lambda i: 1 // i, [1, 0, 2]))

    def stops():
        yield 1
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="own"):
        list(map_ahead(lambda i: i, stops()))
