"""The neurons of highest impact, and what a profile's table says about them."""

from __future__ import annotations

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, resolve_for, thread_count, torch_index_dtype

TABLES = (torch.int32, torch.uint16, torch.uint32)


def _checked_out(impacts: torch.Tensor, k: int, out: torch.Tensor | None) -> torch.Tensor:
    """Where the top K goes: `out`, or a new tensor."""
    if impacts.ndim != 2 or impacts.dtype != torch.float32:
        raise ArgumentError(f"impacts: got {impacts.dtype} {list(impacts.shape)}; give float32 [rows, N]")
    rows, neurons = impacts.shape
    if not 1 <= k <= neurons:
        raise ArgumentError(f"k: got {k}; use 1 to {neurons}, the neurons of a layer")
    dtype = torch_index_dtype(neurons)
    if out is None:
        return torch.empty((rows, k), dtype=dtype, device=impacts.device)
    if out.shape != (rows, k) or out.dtype != dtype or out.device != impacts.device:
        raise ArgumentError(
            f"out: got {out.dtype} {list(out.shape)} on {out.device}; give {dtype} [{rows}, {k}] on {impacts.device}"
        )
    return out


def check_broken(broken: torch.Tensor) -> None:
    """Refuse what topk has marked; waits for the device.

    Raises:
        ArgumentError: broken is not 0.
    """
    if broken.item():
        raise ArgumentError("impacts: not a number (NaN) among them; the backbone's arithmetic overflowed")


def topk(
    impacts: torch.Tensor,
    k: int,
    *,
    out: torch.Tensor | None = None,
    broken: torch.Tensor | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> torch.Tensor:
    """Indices of the k largest per row, largest first, ties to the lower index.

    Args:
        impacts: float32 [rows, N], the columns contiguous.
        k: 1..N.
        out: uint16 [rows, k], uint32 where N is above 65,535; rows may be strided. Default: a new tensor.
        broken: int32 [1] on the device; set to 1 by a backend that need not wait for its result, where an impact is not
            a number. None: refused at once.
        backend: auto, reference or cpp (CPU tensors).
        threads: CPU threads, default as many as torch uses.

    Returns:
        out.

    Raises:
        ArgumentError: an impact is not a number (see broken).
    """
    out = _checked_out(impacts, k, out)
    if resolve_for(impacts.device, backend, triton_lacks="topk") == "reference":
        found = reference.topk(impacts.cpu().numpy(), k)
        return out.copy_(torch.from_numpy(found).to(impacts.device))
    try:
        dispatch.extension().topk(impacts.numpy(), k, out.numpy(), threads=thread_count(threads), isa=isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out


def topk_profile(
    impacts: torch.Tensor,
    k: int,
    table: torch.Tensor,
    sums: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    broken: torch.Tensor | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> None:
    """Add the table's entries of the k neurons of highest impact to sums, in place.

    Args:
        impacts: float32 [rows, N], as topk takes them.
        k: 1..N.
        table: int32 (none negative), uint16 or uint32 [N, P], contiguous: one layer of P profiles side by side.
        sums: int64 [rows, P], contiguous.
        out: where the k neurons are written too, as topk does; None: they are not kept.
        broken: see topk.
        backend: auto, reference or cpp (CPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    neurons = impacts.shape[-1]
    if table.ndim != 2 or table.dtype not in TABLES or len(table) != neurons:
        raise ArgumentError(
            f"table: got {table.dtype} {list(table.shape)}; give int32, uint16 or uint32 [{neurons}, profiles]"
        )
    if sums.dtype != torch.int64 or sums.shape != (len(impacts), table.shape[1]):
        raise ArgumentError(f"sums: got {sums.dtype} {list(sums.shape)}; give int64 [{len(impacts)}, {table.shape[1]}]")
    if resolve_for(impacts.device, backend, triton_lacks="topk_profile") == "reference":
        nags = topk(impacts, k, out=out, broken=broken, backend="reference")
        sums += torch.from_numpy(reference.table_sums(nags.cpu().numpy(), table.cpu().numpy())).to(sums.device)
        return
    nags = topk(impacts, k, out=out, backend="cpp", threads=threads)
    counts = table.view(torch.uint32) if table.dtype == torch.int32 else table
    found = torch.empty_like(sums)
    options = {"threads": thread_count(threads), "isa": isa()}
    dispatch.extension().score(nags[:, None].numpy(), counts[None].numpy(), found.numpy(), **options)
    sums += found
