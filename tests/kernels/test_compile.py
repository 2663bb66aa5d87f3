"""Every kernel compiles ahead of time for sm_90, without spills, to the loads and instructions it was written for."""

import pytest
from compiling import compile_kernel

from nagfast.kernels import bit_rows, bit_search, profile_score

BUILD = {"entries": "i32", "neurons": "i32", "per_document": "i32", "top_k": "i32"}
SEARCH = {"rows": "*i32", "numbers": "*i32", "keys": "*i64"}
SEARCH |= dict.fromkeys(("num_rows", "groups", "targets", "slots"), "i32")


def compile_search(num_planes, words, **options):
    constants = {"num_planes": num_planes, "words": words}
    return compile_kernel(bit_search.bit_search_kernel, SEARCH, constants, options={**bit_search.OPTIONS, **options})


def check(compiled, registers):
    assert (compiled.spills, compiled.stack) == (0, 0)
    assert compiled.registers <= registers


def test_search_reads_16_bytes_a_thread_and_counts_bits_in_hardware():
    compiled = compile_search(bit_search.plane_count(28 * 20), bit_rows.MAX_WORDS)
    check(compiled, 128)  # 16 warps of 32 threads share 65,536 registers
    assert compiled.instructions("LDG.E.128") == 16  # the sixteen rows of a group
    assert compiled.instructions("POPC") >= 4 * 10  # four words a thread, ten planes
    assert compiled.shared <= 2048


@pytest.mark.parametrize(("num_planes", "words"), [(5, bit_rows.MIN_WORDS), (12, bit_rows.MAX_WORDS)])
def test_search_of_other_shapes_does_not_spill(num_planes, words):
    check(compile_search(num_planes, words), 168)


def test_building_does_not_spill():
    signature = {"nags": "*u16", "row_of": "*i32", "rows": "*i32", **BUILD, "num_rows": "i32"}
    constants = {"words": bit_rows.MAX_WORDS, "tile": bit_rows.TILE}
    compiled = compile_kernel(bit_rows.bit_rows_set_kernel, signature, constants, options=bit_rows.OPTIONS)
    check(compiled, 128)
    assert compiled.instructions("REDG") == 8  # 1,024 entries, 128 threads; nothing waits for the old value


def test_marking_and_numbering_do_not_spill():
    tile = {"tile": bit_rows.TILE}
    mark = {"nags": "*u16", "present": "*i32", **BUILD}
    check(compile_kernel(bit_rows.bit_rows_mark_kernel, mark, tile, options=bit_rows.OPTIONS), 128)
    number = {"nags": "*u16", "row_of": "*i32", "numbers": "*i32", **BUILD, "width": "i32"}
    check(compile_kernel(bit_rows.bit_rows_number_kernel, number, tile, options=bit_rows.OPTIONS), 128)


def compile_profile_sums(nags, table, **options):
    signature = {"nags": nags, "table": table, "sums": "*i64"}
    signature |= dict.fromkeys(("documents", "per_document", "top_k", "neurons"), "i32")
    constants = {"tile": profile_score.DOCUMENTS, "width": profile_score.ENTRIES}
    options = {**profile_score.OPTIONS, **options}
    return compile_kernel(profile_score.profile_sums_kernel, signature, constants, options=options)


def test_profile_sums_do_not_spill():
    check(compile_profile_sums("*u16", "*i32"), 128)


def test_spills_are_seen():
    squeezed = compile_profile_sums("*i64", "*i64", maxnreg=24)
    assert squeezed.spills > 0
    assert squeezed.stack > 0
