"""One NAG shard: a parquet file whose NAG columns are plain bytes, so that reading them is mapping them.

Columns: docid (string), nag_tokens (int32), kept columns, then per neuron type one fixed_size_binary[L*K*itemsize],
little-endian, layer-major, highest impact first. The footer holds, as JSON under the key "nagfast", the specs, the
source record, the number of rows and how many of them have no NAG; and under "nagfast.pages" where in the file the
plain pages lie.

Top-k indices are close to random (zstd saves 12% and reads at a tenth of the speed), so docid, nag_tokens and the NAG
columns are stored uncompressed, without dictionary, one page a row group; kept columns are zstd with dictionary. Such
a page is the array itself: the reader checks its header and maps it, without a copy or any decoding. What another
program rewrote is read through Arrow. The writer pads row groups so that the first NAG column is aligned; what is not
aligned to its dtype is copied. (The places are in our record because pyarrow 26 ends the process when it is asked for
the column metadata of a damaged footer.)
"""

from __future__ import annotations

import json
import mmap
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nagfast.errors import ArgumentError, NagfastError, SpecMismatchError
from nagfast.files import atomic_path
from nagfast.schema import NagSpec

Array = npt.NDArray[Any]

GROUP_ROWS = 16_384
"""Rows of a row group ..."""
GROUP_BYTES = 1 << 26
"""... or fewer, where a NAG column of that many rows is larger than this."""
ALIGNMENT = 64
"""Bytes; the first NAG column of a row group starts at a multiple of it in the file."""
KEY = b"nagfast"
PAGES = b"nagfast.pages"
"""Apart from KEY, because programs that rewrite a shard carry the metadata of its schema over, and not this."""
RESERVED = ("docid", "nag_tokens")

_BROKEN = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, pa.ArrowException)


def damaged(path: Path, error: object) -> NagfastError:
    """The one-line error for a shard that cannot be read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return NagfastError(f"{path}: the shard cannot be read ({reason}); remove the file and run extract again")


@dataclass(frozen=True)
class Shard:
    """What the footer of a shard says, checked by read_footer."""

    path: Path
    rows: int
    """Documents in it."""
    empty: int
    """Documents without a NAG among them, as recorded by the writer."""
    specs: dict[str, NagSpec]
    """Neuron type -> spec."""
    source: dict[str, Any]
    """Which piece of which input it was made from, as the writer was told."""
    kept: pa.Schema
    """Name and type of each kept column."""
    pages: dict[str, list[tuple[int, int]]]
    """Column -> for each row group where its page starts and where the first value lies; a hint, checked in use."""


def nag_array(indices: Array, spec: NagSpec) -> pa.Array:
    """NAGs (uint16 or uint32 [n, L, K]) as a fixed_size_binary array, no copy where they are contiguous."""
    data = np.ascontiguousarray(indices, dtype=spec.index_dtype)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(spec.row_bytes), len(data), [None, pa.py_buffer(data)])


def write_shard(path: Path, table: pa.Table, specs: Mapping[str, NagSpec], record: Mapping[str, Any]) -> None:
    """Write a shard whole or not at all.

    Args:
        path: the final file.
        table: docid, nag_tokens, kept columns and one column per neuron type, as described above.
        specs: neuron type -> spec.
        record: what goes under KEY in the footer; no time stamps, so that the same rows make the same file.

    Raises:
        NagfastError: the file cannot be written.
    """
    table = table.combine_chunks().replace_schema_metadata({KEY: json.dumps(record).encode()})
    plain = {*RESERVED, *specs}
    leaves = _leaf_paths(pq.read_metadata(_in_memory(table.schema.empty_table())))
    options: dict[str, Any] = {
        "compression": {leaf: "NONE" if leaf in plain else "ZSTD" for leaf in leaves},
        "use_dictionary": [leaf for leaf in leaves if leaf not in plain] or False,
        "write_statistics": [leaf for leaf in leaves if leaf not in specs],
        "write_page_checksum": True,
        "data_page_size": 1 << 30,  # one page a row group
    }
    rows = max(1, min(GROUP_ROWS, GROUP_BYTES // max(spec.row_bytes for spec in specs.values())))
    widths = {"nag_tokens": 4} | {name: spec.row_bytes for name, spec in specs.items()}
    pages: dict[str, list[tuple[int, int]]] = {name: [] for name in widths}
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pq.ParquetWriter(sink, table.schema, **options) as writer,
    ):
        for start in range(0, len(table), rows):
            group = table.slice(start, rows)
            places = _places(group, widths, options)
            first = places[next(iter(specs))][1]
            sink.write(b"\0" * (-(sink.tell() + first) % ALIGNMENT))  # readers go by offsets, gaps are allowed
            for name, (header, values) in places.items():
                pages[name].append((sink.tell() + header, sink.tell() + values))
            writer.write_table(group, row_group_size=rows)
        writer.add_key_value_metadata({PAGES: json.dumps(pages)})


def _in_memory(table: pa.Table, **options: Any) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=max(1, len(table)), **options)
    return pa.BufferReader(sink.getvalue())


def _places(group: pa.Table, widths: Mapping[str, int], options: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Offsets in a row group of a column's page and of its first value, found by writing the group to memory once."""
    metadata = pq.read_metadata(_in_memory(group, **options))
    leaves = _leaf_paths(metadata)
    places = {}
    for name, width in widths.items():
        column = metadata.row_group(0).column(leaves.index(name))
        start = int(column.data_page_offset) - len("PAR1")
        places[name] = (start, start + int(column.total_compressed_size) - width * len(group))
    return places


def _leaf_paths(metadata: pq.FileMetaData) -> list[str]:
    return [metadata.schema.column(i).path for i in range(len(metadata.schema))]


def read_footer(path: Path) -> Shard:
    """Read and check the footer of a shard.

    Raises:
        NagfastError: the file is damaged, is no shard, or has a missing or wrongly typed column.
    """
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        entries = metadata.metadata or {}
    except _BROKEN as error:
        raise damaged(path, error) from error
    if KEY not in entries:
        raise NagfastError(
            f"{path}: is not a shard of a NAG store (no nagfast record in its footer); move it elsewhere"
        )
    try:
        record = json.loads(entries[KEY])
        specs = {str(name): NagSpec.from_dict(value, str(path)) for name, value in record["specs"].items()}
        rows, empty, source = int(record["rows"]), int(record["empty"]), dict(record["source"])
        places = json.loads(entries.get(PAGES, b"{}"))
        pages = {name: [(int(a), int(b)) for a, b in groups] for name, groups in places.items()}
        wanted = {"docid": pa.string(), "nag_tokens": pa.int32()}
        wanted |= {name: pa.binary(spec.row_bytes) for name, spec in specs.items()}
    except (*_BROKEN, AttributeError) as error:
        raise damaged(path, error) from error
    if rows != metadata.num_rows:
        raise damaged(path, f"{metadata.num_rows} rows where its record says {rows}")
    for name, kind in wanted.items():
        index = schema.get_field_index(name)
        found = schema.field(index).type if index >= 0 else "missing"
        if found != kind:
            raise NagfastError(f"{path}: column {name} is {found}, not {kind}; remove the file and run extract again")
    return Shard(path, rows, empty, specs, source, pa.schema([f for f in schema if f.name not in wanted]), pages)


def common_field(name: str, kinds: set[pa.DataType]) -> pa.Field:
    """A column of a type that all of these go into, text at worst; of nulls where there are none."""
    each = [pa.schema([pa.field(name, kind)]) for kind in sorted(kinds or {pa.null()}, key=str)]
    try:
        return pa.unify_schemas(each, promote_options="permissive" if len(each) > 1 else "default").field(0)
    except pa.ArrowException:
        return pa.field(name, pa.string())


def may_be_shard(path: Path) -> bool:
    """Whether a parquet file has the record of a shard, or is damaged beyond telling."""
    try:
        return KEY in (pq.read_metadata(path).metadata or {})
    except _BROKEN:
        return True


def require_spec(shard: Shard, specs: Mapping[str, NagSpec], store: Path) -> None:
    """Raise unless the shard has the NAGs that the store says it has.

    Raises:
        SpecMismatchError: other neuron types, another identity or another K.
    """
    if set(shard.specs) != set(specs):
        raise SpecMismatchError(
            f"{shard.path}: holds {', '.join(shard.specs)} where {store} says {', '.join(specs)}; remove the shard"
        )
    for name, spec in specs.items():
        spec.require_same_identity(shard.specs[name], str(store), str(shard.path))
        if shard.specs[name].top_k != spec.top_k:
            raise SpecMismatchError(
                f"{shard.path}: {name} has K={shard.specs[name].top_k} where {store} says K={spec.top_k}; "
                "remove the shard"
            )


class ShardReader:
    """Columns of one shard, by row group.

    Arrays from `values` are read-only views of the file. They stay valid when the shard is replaced (the old file lives
    on until the last view is gone); cutting the file short in place while views exist ends the process, as with any
    mapping.
    """

    def __init__(self, shard: Shard) -> None:
        """Open and map.

        Raises:
            NagfastError: the file cannot be read.
        """
        self.path = shard.path
        self._pages = shard.pages
        self._lock = threading.Lock()  # Arrow's reader serves one thread at a time
        try:
            with self.path.open("rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            self._map.madvise(mmap.MADV_SEQUENTIAL)  # populating in one call was measured: no faster
            self._file = pq.ParquetFile(pa.BufferReader(self._map), page_checksum_verification=True)
            schema = self._file.metadata.schema
            leaves = (schema.column(i) for i in range(len(schema)))
            self._flat = {c.path for c in leaves if not c.max_definition_level and not c.max_repetition_level}
        except _BROKEN as error:
            raise damaged(self.path, error) from error

    @property
    def num_groups(self) -> int:
        """Row groups."""
        return int(self._file.metadata.num_row_groups)

    def table(self, names: Sequence[str], groups: Sequence[int]) -> pa.Table:
        """Some columns of some row groups, decoded by Arrow and checked (page checksums, UTF-8)."""
        try:
            with self._lock:
                found = self._file.read_row_groups(list(groups), columns=list(names), use_threads=False)
            found = found.select(list(names))
            found.validate(full=True)
        except _BROKEN as error:
            raise damaged(self.path, error) from error
        return found

    def values(self, group: int, name: str, dtype: npt.DTypeLike, width: int) -> Array:
        """A fixed-width column of a row group as a flat array.

        Args:
            group: row group.
            name: column, without nulls.
            dtype: of the array's elements.
            width: bytes a row.

        Raises:
            NagfastError: the column is damaged or has nulls.
        """
        try:
            raw = self._mapped(group, name, width)
            if raw is None:
                raw = self._decoded(group, name, width)
        except _BROKEN as error:
            raise damaged(self.path, error) from error
        return np.require(raw.view(dtype), requirements="A")

    def _mapped(self, group: int, name: str, width: int) -> Array | None:
        """The bytes of a column chunk that is one plain page, or None where it is something else."""
        pages = self._pages.get(name, ())
        if name not in self._flat or len(pages) != self.num_groups:
            return None
        header, values = pages[group]
        if not 4 <= header < values <= min(header + 64, len(self._map)):
            return None
        size = _plain_page_bytes(self._map[header:values])
        if size is None or size % width or values + size > len(self._map):
            return None
        return np.frombuffer(self._map, np.uint8, size, values)

    def _decoded(self, group: int, name: str, width: int) -> Array:
        column = self.table([name], [group]).column(0)
        if column.null_count:
            raise ValueError(f"column {name} has nulls")
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        if not len(array):
            return np.empty(0, np.uint8)
        return np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)


def _plain_page_bytes(header: bytes) -> int | None:
    """Bytes of a data page that is plain and uncompressed, from its Thrift header; None where it is another page.

    The header is page_type, uncompressed_page_size, compressed_page_size and maybe crc, each a zigzag varint whose
    field id is one more than the last (byte 0x15), and data_page_header, a struct (0x1C, or 0x2C where crc is left out)
    that starts with num_values and encoding.
    """
    numbers: list[int] = []
    outside = None
    at = 0
    while outside is None or len(numbers) < outside + 2:
        tag = header[at : at + 1]
        at += 1
        if tag in {b"\x1c", b"\x2c"} and outside is None:
            outside = len(numbers)
            continue
        if tag != b"\x15":
            return None
        shift = value = 0
        for byte in header[at : at + 5]:
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80:
                break
        numbers.append((value >> 1) ^ -(value & 1))
    if outside not in {3, 4}:
        return None
    kind, uncompressed, compressed = numbers[:3]
    plain = kind == 0 and uncompressed == compressed >= 0 and numbers[outside + 1] == 0
    return compressed if plain else None


def check_indices(indices: Array, spec: NagSpec, what: str) -> None:
    """Raise unless `indices` is [n, L, K] of the spec's dtype and each value is a neuron or the sentinel.

    Raises:
        ArgumentError: naming `what` and the first bad value.
    """
    want = (spec.num_layers, spec.top_k)
    if indices.ndim != 3 or indices.shape[1:] != want or indices.dtype != spec.index_dtype:
        raise ArgumentError(
            f"{what}: got {indices.dtype} {list(indices.shape)}, want {spec.index_dtype} [n, {want[0]}, {want[1]}]"
        )
    bad = (indices >= spec.num_neurons) & (indices != spec.sentinel)
    if bad.any():
        raise ArgumentError(
            f"{what}: index {int(indices[bad][0])} is outside the {spec.num_neurons} neurons of a layer"
        )
