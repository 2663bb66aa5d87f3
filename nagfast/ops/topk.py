"""The neurons of highest impact, and what a profile's table says about them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, require_columns, resolve_for, thread_count, torch_index_dtype
from nagfast.ops.partials import Impacts, Partials, finished

TABLES = (torch.int32, torch.uint16, torch.uint32)


KERNEL_K = 512  # most that the kernel takes


def _check_impacts(impacts: Impacts, k: int) -> None:
    """Refuse what has no K neurons of highest impact."""
    if isinstance(impacts, torch.Tensor) and (impacts.ndim != 2 or impacts.dtype != torch.float32):
        raise ArgumentError(f"impacts: got {impacts.dtype} {list(impacts.shape)}; give float32 [rows, N]")
    if isinstance(impacts, torch.Tensor):
        require_columns(impacts=impacts)
    if not 1 <= k <= impacts.shape[1]:
        raise ArgumentError(f"k: got {k}; use 1 to {impacts.shape[1]}, the neurons of a layer")


def _check_out(impacts: Impacts, k: int, out: torch.Tensor) -> None:
    rows, dtype, device = impacts.shape[0], torch_index_dtype(impacts.shape[1]), impacts.device
    if out.shape != (rows, k) or out.dtype != dtype or out.device != device:
        raise ArgumentError(
            f"out: got {out.dtype} {list(out.shape)} on {out.device}; give {dtype} [{rows}, {k}] on {device}"
        )
    require_columns(out=out)


def _new_out(impacts: Impacts, k: int) -> torch.Tensor:
    dtype = torch_index_dtype(impacts.shape[1])
    return torch.empty((impacts.shape[0], k), dtype=dtype, device=impacts.device)


def _choose(impacts: Impacts, k: int, backend: str) -> str:
    lacks = f"k of {k} (above {KERNEL_K})" if k > KERNEL_K else ""
    return resolve_for(impacts.device, backend, triton_lacks=lacks)


def _run_kernel(
    impacts: Impacts,
    k: int,
    out: torch.Tensor | None,
    profiles: tuple[torch.Tensor, torch.Tensor] | None,
    broken: torch.Tensor | None,
) -> None:
    """The kernel that does everything at once; waits for the device only where nobody else reads `broken`."""
    seen = torch.zeros(1, dtype=torch.int32, device=impacts.device) if broken is None else broken
    options: dict[str, Any] = {"broken": seen, "nags": out, "profiles": profiles}
    if isinstance(impacts, Partials):
        options |= {"chunks": (impacts.of_document, impacts.lengths), "reduction": impacts.reduction}
    values = impacts.sums if isinstance(impacts, Partials) else impacts
    import_module("nagfast.kernels.topk").topk(values, k, **options)
    if broken is None:
        check_broken(seen)


def check_broken(broken: torch.Tensor) -> None:
    """Refuse what topk has marked; waits for the device.

    Raises:
        ArgumentError: broken is not 0.
    """
    if broken.item():
        raise ArgumentError("impacts: not a number (NaN) among them; the backbone's arithmetic overflowed")


def topk(
    impacts: Impacts,
    k: int,
    *,
    out: torch.Tensor | None = None,
    broken: torch.Tensor | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> torch.Tensor:
    """Indices of the k largest per row, largest first, ties to the lower index.

    Args:
        impacts: float32 [rows, N], the columns contiguous; or Partials.
        k: 1..N.
        out: uint16 [rows, k], uint32 where N is above 65,535; rows may be strided. Default: a new tensor.
        broken: int32 [1] on the device; set to 1 by a backend that need not wait for its result, where an impact is not
            a number. None: refused at once.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors, k up to 512).
        threads: CPU threads, default as many as torch uses.

    Returns:
        out.

    Raises:
        ArgumentError: an impact is not a number (see broken).
    """
    _check_impacts(impacts, k)
    out = _new_out(impacts, k) if out is None else out
    _check_out(impacts, k, out)
    chosen = _choose(impacts, k, backend)
    if chosen == "triton":
        _run_kernel(impacts, k, out, None, broken)
        return out
    impacts = finished(impacts)
    if chosen == "reference":
        found = reference.topk(impacts.cpu().numpy(), k)
        return out.copy_(torch.from_numpy(found).to(impacts.device))
    try:
        dispatch.extension().topk(impacts.numpy(), k, out.numpy(), threads=thread_count(threads), isa=isa())
    except ValueError as error:
        raise ArgumentError(str(error)) from None
    return out


def topk_profile(
    impacts: Impacts,
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
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors, k up to 512).
        threads: CPU threads, default as many as torch uses.
    """
    _check_impacts(impacts, k)
    rows, neurons = impacts.shape
    if table.ndim != 2 or table.dtype not in TABLES or len(table) != neurons or not table.shape[1]:
        raise ArgumentError(
            f"table: got {table.dtype} {list(table.shape)}; give int32, uint16 or uint32 [{neurons}, profiles]"
        )
    if sums.dtype != torch.int64 or sums.shape != (rows, table.shape[1]):
        raise ArgumentError(f"sums: got {sums.dtype} {list(sums.shape)}; give int64 [{rows}, {table.shape[1]}]")
    if not (table.is_contiguous() and sums.is_contiguous()):
        raise ArgumentError("table, sums: got strided views; give contiguous tensors")
    chosen = _choose(impacts, k, backend)
    if chosen == "triton":
        if out is not None:
            _check_out(impacts, k, out)
        _run_kernel(impacts, k, out, (table, sums), broken)
        return
    nags = topk(impacts, k, out=out, backend=chosen, threads=threads)
    if chosen == "reference":
        sums += torch.from_numpy(reference.table_sums(nags.cpu().numpy(), table.cpu().numpy())).to(sums.device)
        return
    counts = table.view(torch.uint32) if table.dtype == torch.int32 else table
    found = torch.empty_like(sums)
    options = {"threads": thread_count(threads), "isa": isa()}
    dispatch.extension().score(nags[:, None].numpy(), counts[None].numpy(), found.numpy(), **options)
    sums += found
