"""The AVX-512 files, run under emulation (SIMDe) where the processor has no AVX-512: same bytes as the plain C++.

Builds the whole module in a temporary folder with the AVX-512 files compiled against SIMDe's headers (Debian:
libsimde-dev), half a minute; skipped where a compiler or the headers are missing.
"""

import importlib.util
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pybind11
import pytest

from nagfast import _C

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = shutil.which("c++")


def why_not():
    """Return why the emulation cannot be built, or an empty string."""
    if "avx2" not in _C.available_isas():
        return "emulating AVX-512 to the bit needs the AVX2 and FMA instructions"
    if COMPILER is None:
        return "no C++ compiler (c++) on the path"
    probe = [COMPILER, "-E", "-x", "c++", "-include", "simde/x86/avx512.h", "/dev/null"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "SIMDe's headers are missing (Debian: apt-get install libsimde-dev)"
    return ""


def compile_file(source, folder):
    target = folder / (source.stem + ".o")
    flags = ["-mavx2", "-mfma"] if source.stem.endswith(("_avx2", "_avx512", "_vp2intersect")) else []
    includes = [f"-I{path}" for path in (CSRC, HERE, pybind11.get_include(), sysconfig.get_paths()["include"])]
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", *flags, *includes]
    command += ["-DNAGFAST_X86=1", "-DNAGFAST_SIMDE=1", "-c", source, "-o", target]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """Return the module built with emulated AVX-512."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("simde")
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda source: compile_file(source, folder), sorted(CSRC.glob("*.cpp"))))
    library = folder / "_C.so"
    subprocess.run([COMPILER, "-shared", "-pthread", *objects, "-o", library], check=True)
    spec = importlib.util.spec_from_file_location("nagfast_simde._C", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.resolve_isa("avx512") == module.resolve_isa("auto") == "avx512"
    return module


def same_bytes(call, *outputs, isas=("scalar", "avx512")):
    """Call with each instruction set on poisoned copies of the outputs and compare them to the bit."""
    results = []
    for isa in isas:
        copies = [output.copy() for output in outputs]
        call(*copies, isa=isa)
        results.append([copy.tobytes() for copy in copies])
    assert all(result == results[0] for result in results)


def floats(shape, dtype, seed):
    """Draw ordinary values and, in the last rows, arbitrary bit patterns."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape, dtype=np.float32) * 4).view(np.uint32)
    x[shape[0] // 2 :] = rng.integers(0, 2**32, x[shape[0] // 2 :].shape, dtype=np.uint64).astype(np.uint32)
    return x.view(np.float32) if dtype == np.float32 else (x >> 16).astype(np.uint16)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_impact(emulated, dtype, reduction, activation):
    cu_seqlens = np.array([0, 0, 1, 130, 258, 300], np.int64)
    for width in [1, 7, 15, 16, 17, 63, 64, 65, 192, 600]:
        gate_up = floats((300, 2 * width), dtype, width)
        impact = np.full((5, width), np.nan, np.float32)

        def swiglu(gate_up, impact, isa):
            options = {"activation": activation, "reduction": reduction, "isa": isa}
            emulated.swiglu_impact(gate_up, cu_seqlens, impact, **options)

        def segment(impact, isa, x=gate_up[:, width:]):
            emulated.segment_impact(x, cu_seqlens, impact, reduction=reduction, isa=isa)

        same_bytes(swiglu, gate_up, impact)
        same_bytes(segment, impact)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("reduction", ["mean_abs", "l2"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_swiglu_backward(emulated, dtype, reduction, activation):
    cu_seqlens = np.array([0, 0, 1, 130, 200], np.int64)
    for width in [1, 7, 15, 16, 17, 63, 192, 600]:
        gate_up, d_act = floats((200, 2 * width), dtype, width), floats((200, width), dtype, width + 1)
        impact = np.full((4, width), np.nan, np.float32)

        def backward(gate_up, impact, isa, d_act=d_act):
            options = {"activation": activation, "reduction": reduction, "isa": isa}
            emulated.swiglu_backward(gate_up, d_act, cu_seqlens, impact, **options)

        same_bytes(backward, gate_up, impact)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_norms(emulated, dtype):
    for width in [2, 14, 16, 34, 64, 130, 600]:
        x, residual = floats((40, width), dtype, width), floats((40, width), dtype, width + 1)
        weight, cos, sin = (floats((2 * 40, width), np.float32, width + s)[:40] for s in (2, 3, 4))

        def norm(residual, out, isa, x=x, weight=weight[0]):
            emulated.add_rms_norm(x, residual, weight, 1e-6, out, isa=isa)

        def turn(x, isa, weight=weight[0], cos=cos, sin=sin):
            emulated.norm_rotary(x[:, None], weight, 1e-6, cos, sin, isa=isa)

        same_bytes(norm, residual, x)
        same_bytes(turn, x)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_causal_attention(emulated, dtype):
    cu_seqlens = np.array([0, 0, 1, 40, 60], np.int64)
    for dim in [2, 17, 64]:
        query, key, value = (floats((60, 4 * dim), dtype, dim + s).reshape(60, 4, dim) for s in range(3))

        def attend(out, isa, arrays=(query, key[:, :2], value[:, :2])):
            emulated.causal_attention(*arrays, cu_seqlens, out, 0.3, isa=isa)

        same_bytes(attend, query)


def test_silu_over_its_range(emulated):
    gate = np.linspace(-110, 110, 300_000, dtype=np.float32)
    gate_up = np.concatenate([gate, np.ones_like(gate)])[None]

    def swiglu(gate_up, isa):
        impact = np.empty((1, len(gate)), np.float32)
        emulated.swiglu_impact(gate_up, np.array([0, 1], np.int64), impact, isa=isa)

    same_bytes(swiglu, gate_up)


@pytest.mark.parametrize("k", [1, 7, 20, 32, 33, 64, 300])
def test_topk(emulated, k):
    rng = np.random.default_rng(k)
    for columns in [k, k + 1, 64, 65, 127, 128, 192, 1000, 6151]:
        if columns < k:
            continue
        normal = rng.standard_normal((4, columns), dtype=np.float32)
        for values in (normal, np.round(normal), np.zeros_like(normal), np.sort(normal), normal * np.float32(1e-42)):
            out = np.full((4, k), 0xFFFF, np.uint16)
            same_bytes(lambda out, isa, values=values: emulated.topk(values, k, out, isa=isa), out)
        normal[2, columns - 1] = np.nan
        with pytest.raises(ValueError, match="values: row 2 holds a NaN"):
            emulated.topk(normal, k, out, isa="avx512")


@pytest.mark.parametrize("index", [np.uint16, np.uint32])
@pytest.mark.parametrize("count", [np.uint16, np.uint32])
def test_score(emulated, count, index):
    rng = np.random.default_rng(7)
    for k, profiles in [(1, 1), (20, 1), (33, 1), (20, 7), (20, 16), (5, 63), (20, 64), (3, 121)]:
        nags = rng.integers(0, 500, (300, 3, k)).astype(index)
        nags[[0, 77]] = np.iinfo(index).max
        table = rng.integers(0, np.iinfo(count).max, (3, 500, profiles), dtype=count, endpoint=True)
        out = np.full((300, profiles), -1, np.int64)
        for view in (nags, np.concatenate([nags, nags], axis=2)[:, :, :k]):
            same_bytes(lambda out, isa, view=view, table=table: emulated.score(view, table, out, isa=isa), out)
        for entry in {0, k // 2, k - 1}:
            wrong = nags.copy()
            wrong[131, 2, entry] = 500
            with pytest.raises(ValueError, match="document 131, layer 2 holds index 500"):
                emulated.score(wrong, table, out, isa="avx512")


@pytest.mark.parametrize("index", [np.uint16, np.uint32])
def test_minhash(emulated, index):
    rng = np.random.default_rng(9)
    for layers, k, permutations in [(1, 1, 1), (3, 20, 7), (2, 16, 8), (5, 7, 33)]:
        nags = rng.integers(0, 500, (40, layers, k)).astype(index)
        nags[[0, 31]] = np.iinfo(index).max
        a, b = rng.integers(0, 2**32, (2, permutations), dtype=np.uint32)
        out = np.full((40, permutations), 0xFFFF, np.uint32)
        same_bytes(lambda out, isa, nags=nags, a=a, b=b: emulated.minhash(nags, 500, a, b, out, isa=isa), out)


@pytest.mark.parametrize("index", [np.uint16, np.uint32])
@pytest.mark.parametrize("k", [1, 15, 16, 20, 32, 33, 64, 96, 97])
def test_overlap(emulated, k, index):
    rng = np.random.default_rng(k)
    a, b = (rng.permuted(np.tile(np.arange(200), (n, 3, 1)), axis=2)[:, :, :k].astype(index) for n in (3, 150))
    a[1] = b[77] = np.iinfo(index).max
    candidates = rng.integers(-1, 150, (3, 90))
    for view in (b, np.concatenate([b, b], axis=2)[:, :, :k]):
        for weights, kind in ((None, np.int32), (rng.integers(0, 2**32, (3, 200), dtype=np.uint32), np.int64)):
            options = {"neurons": 200, "weights": weights}
            for other in (a, a[:, :, : k // 2 + 1]):

                def matrix(out, isa, other=other, view=view, options=options):
                    emulated.overlap_matrix(other, view, out, isa=isa, **options)

                def among(out, isa, other=other, view=view, options=options):
                    emulated.overlap_candidates(other, view, candidates, out, isa=isa, **options)

                isas = emulated.available_isas(sets=True)
                assert "vp2intersect" in isas
                same_bytes(matrix, np.full((3, 150), -7, kind), isas=isas)
                same_bytes(among, np.full((3, 90), -7, kind), isas=isas)
    wrong = b.copy()
    wrong[131, 2, k - 1] = 200
    with pytest.raises(ValueError, match="b: document 131, layer 2 holds index 200"):
        emulated.overlap_matrix(a, wrong, np.zeros((3, 150), np.int32), neurons=200, isa="avx512")


@pytest.mark.parametrize("index", [np.uint16, np.uint32])
def test_bit_targets(emulated, index):
    rng = np.random.default_rng(8)
    for targets, queries, layers, k, neurons, near in [
        (1, 2, 1, 1, 3, 1),
        (600, 40, 3, 7, 60, 9),
        (1100, 30, 28, 20, 300, 50),
    ]:
        ranks = rng.random((targets + queries, layers, neurons)) * (np.arange(neurons) + 3.0)
        nags = np.argsort(ranks, axis=2)[:, :, :k].astype(index)
        nags[[0, targets]] = np.iinfo(index).max
        nags[targets - 1] = nags[-1]
        order = rng.permutation(targets)
        starts = np.array([0, targets // 7, targets // 2, targets])
        bits = emulated.BitTargets(nags[:targets], neurons, order=order, starts=starts)
        probes = rng.integers(-1, 3, (queries, 2)).astype(np.int32)
        counts, ids = np.full((queries, near), -1, np.int32), np.full((queries, near), -1, np.int64)

        def every(counts, ids, isa, bits=bits, asked=nags[targets:]):
            bits.search(asked, counts, ids, isa=isa)

        def some(counts, ids, isa, bits=bits, asked=nags[targets:], probes=probes):
            bits.search_lists(asked, probes, counts, ids, isa=isa)

        same_bytes(every, counts, ids)
        same_bytes(some, counts, ids)
