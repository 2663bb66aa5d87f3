"""Which instruction sets there are, and what their names stand for."""

import pytest

from nagfast import _C


def test_scalar_is_always_there_and_first():
    assert _C.available_isas()[0] == "scalar"


def test_order_is_slowest_first():
    order = ["scalar", "avx2", "avx512"]
    assert _C.available_isas() == [isa for isa in order if isa in _C.available_isas()]


def test_some_are_for_set_similarity_only():
    isas = _C.available_isas(sets=True)
    assert [isa for isa in isas if isa != "vp2intersect"] == _C.available_isas()
    assert isas.index("vp2intersect") == len(isas) - 1 if "vp2intersect" in isas else True
    with pytest.raises(ValueError, match="'vp2intersect' is not available here"):
        _C.resolve_isa("vp2intersect")


def test_auto_is_the_fastest():
    assert _C.resolve_isa("auto") == _C.available_isas()[-1]


def test_available_names_resolve_to_themselves():
    assert [_C.resolve_isa(isa) for isa in _C.available_isas()] == _C.available_isas()


@pytest.mark.parametrize("isa", ["neon", "", "AVX2"])
def test_unknown_name_is_refused_with_the_choices(isa):
    with pytest.raises(ValueError, match=rf"isa: '{isa}' is not available here; use one of 'auto', 'scalar'"):
        _C.resolve_isa(isa)
