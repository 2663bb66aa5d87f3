"""Index files that somebody damaged on purpose: the manifest agrees with them, so checksums cannot help."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
from search_data import clustered

from nagfast.errors import NagfastError
from nagfast.search import faiss_index
from nagfast.search.nearest import NearestTargets
from nagfast.targets import TargetProfile


def replace_file(folder, name, data):
    """Write a file and make index.json agree."""
    (folder / name).write_bytes(data)
    record = json.loads((folder / "index.json").read_text())
    record["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "index.json").write_text(json.dumps(record))


def damage(data, others, rng):
    """Flipped bits, a piece of zeros, a cut, an appendix, or another of the files."""
    kind = rng.choice(["flip", "flip", "zeros", "cut", "more", "swap"])
    damaged = bytearray(data)
    start = rng.randrange(min(len(data), 300) if rng.random() < 0.5 else len(data))  # half of them in the header
    if kind == "flip":
        damaged[start] ^= 1 << rng.randrange(8)
    elif kind == "zeros":
        damaged[start : start + 64] = bytes(len(damaged[start : start + 64]))
    elif kind == "cut":
        del damaged[start:]
    elif kind == "more":
        damaged += bytes(rng.randrange(1, 4096))
    else:
        damaged = bytearray(rng.choice(others))
    return bytes(damaged)


@pytest.mark.parametrize("method", ["exact", "ivf", "faiss", "minhash"])
def test_any_damage_is_one_error_or_harmless(tmp_path, monkeypatch, method):
    if method == "faiss":
        pytest.importorskip("faiss")
        monkeypatch.setitem(faiss_index.DIMENSIONS, "pq", 64)
    whole, copy, queries = tmp_path / "whole", tmp_path / "copy", clustered(5, 2)
    NearestTargets.build(clustered(300, 1), method=method).save(whole)
    files = {path.name: path.read_bytes() for path in sorted(whole.iterdir()) if path.name != "index.json"}
    refused = 0
    for seed in range(100):
        rng = random.Random(seed)
        name = rng.choice(sorted(files))
        shutil.copytree(whole, copy)
        replace_file(copy, name, damage(files[name], list(files.values()), rng))
        try:
            found = NearestTargets.open(copy).search(queries, 4)
        except NagfastError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert found.ids.shape == (5, 4)
            assert found.ids.max() < 300
        shutil.rmtree(copy)
    assert 40 < refused < 100


HEADERS = {
    "unclosed": b"{'descr': '<u2', 'fortran_order': False, 'shape': (300, 3, 6), ",
    "no python": b"{'descr': '<u2' 'x" + b"\x00" * 40,
    "huge": b"{'descr': '<u2', 'fortran_order': False, 'shape': (9223372036854775807, 3, 6), }",
    "beyond memory": b"{'descr': '<u2', 'fortran_order': False, 'shape': (1099511627776, 3, 6), }",
    "negative": b"{'descr': '<u2', 'fortran_order': False, 'shape': (-300, 3, 6), }",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (300, 3, 6), }",
    "no type": b"{'descr': (), 'fortran_order': False, 'shape': (300, 3, 6), }",
}


@pytest.mark.parametrize("name", ["nags.npy", "ivf_order.npy", "ivf_starts.npy", "ivf_prototypes.npy"])
@pytest.mark.parametrize("header", HEADERS)
def test_headers_that_lie(tmp_path, name, header):
    NearestTargets.build(clustered(300, 1), method="ivf").save(tmp_path / "i")
    text = HEADERS[header].ljust(117) + b"\n"
    body = (tmp_path / "i" / name).read_bytes()[128:]
    replace_file(tmp_path / "i", name, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    with pytest.raises(NagfastError, match="build"):
        NearestTargets.open(tmp_path / "i")


@pytest.mark.parametrize("header", HEADERS)
def test_a_profile_whose_header_lies_is_refused(tmp_path, header):
    import zipfile

    TargetProfile.fit(clustered(20)).save(tmp_path / "whole.npz")
    text = HEADERS[header].ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "whole.npz") as source, zipfile.ZipFile(tmp_path / "p.npz", "w") as out:
        for name in source.namelist():
            data = source.read(name)
            if name == "counts.npy":
                data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[128:]
            out.writestr(name, data)
    with pytest.raises(NagfastError, match=r"p\.npz"):
        TargetProfile.load(tmp_path / "p.npz")


def test_an_archive_in_place_of_an_array_is_refused(tmp_path):
    NearestTargets.build(clustered(30, 1)).save(tmp_path / "i")
    np.savez(tmp_path / "x.npz", nags=np.zeros(3))
    replace_file(tmp_path / "i", "nags.npy", (tmp_path / "x.npz").read_bytes())
    with pytest.raises(NagfastError, match="damaged"):
        NearestTargets.open(tmp_path / "i")
