"""Reading arrays that numpy wrote, from files that may have been damaged or made to do harm.

Headers are Python text, and numpy lets out whatever error its parser comes to (SyntaxError, tokenize.TokenError,
IndexError, ...); here everything that is wrong with an array is a ValueError.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Header(NamedTuple):
    """What an array says about itself."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


def read_header(handle: IO[bytes]) -> Header:
    """The header at the start of a .npy file or archive member.

    Raises:
        ValueError: it is none.
    """
    try:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(handle)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"not the header of an array: {reason}") from error
    return Header(tuple(shape), bool(fortran_order), dtype)


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """An array as numpy.save wrote it; the header must agree with the file's size before memory is asked for.

    Args:
        path: the .npy file; it holds at least one element.
        mapped: leave the values in the file, read-only, instead of copying them into memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no array of plain values, or longer or shorter than its header says.
    """
    with path.open("rb") as handle:
        shape, fortran_order, dtype = read_header(handle)
        start = handle.tell()
    size = path.stat().st_size - start
    if dtype.hasobject or dtype.itemsize == 0 or any(n < 1 for n in shape):
        raise ValueError(f"an array of {dtype} {list(shape)}")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size} bytes for {dtype} {list(shape)}")
    array = np.memmap(path, dtype, "r", start, shape, "F" if fortran_order else "C")
    return array if mapped else np.array(array)
