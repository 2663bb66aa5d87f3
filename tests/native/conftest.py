"""Fixtures of the native tests."""

import pytest

from nagfast import _C


@pytest.fixture(params=_C.available_isas())
def isa(request):
    """Return each instruction set of this machine, having asserted that it is the one that runs."""
    assert _C.resolve_isa(request.param) == request.param
    return request.param


@pytest.fixture(params=_C.available_isas(sets=True))
def set_isa(request):
    """Return each instruction set that set similarity can take on this machine."""
    return request.param


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    return request.param
