"""RMS norms, with what stands next to them in a decoder layer: the residual sum before, the rotary embedding after."""

from __future__ import annotations

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, native_view, resolve_for, thread_count


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    *,
    out: torch.Tensor | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> torch.Tensor:
    """Residual sum in place and its RMS norm, in one pass ([T, H], dtype of x).

    Args:
        x: what the last block gave, float32 or bfloat16 [T, H]; the norm is of x itself where there is no residual.
        residual: [T, H] of the same dtype; on return residual + x, rounded to the dtype, which the norm is taken of.
        weight: of the norm, [H].
        eps: added to the mean square.
        out: where the result goes, [T, H]; may be x. Default: a new tensor.
        backend: auto, reference or cpp (CPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    for name, other in (("residual", residual), ("out", out)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise ArgumentError(
                f"{name}: got {other.dtype} {list(other.shape)}; give {x.dtype} {list(x.shape)}, as x is"
            )
    if x.ndim != 2 or weight.shape != x.shape[1:]:
        raise ArgumentError(f"x: got {list(x.shape)} with a weight of {list(weight.shape)}; give [T, H] and [H]")
    out = torch.empty_like(x) if out is None else out
    if resolve_for(x.device, backend, triton_lacks="add_rms_norm") == "reference":
        if residual is not None:
            residual.add_(x)
        return out.copy_(reference.rms_norm((x if residual is None else residual).float(), weight.float(), eps))
    total = None if residual is None else native_view(residual, "residual")
    arrays = native_view(x, "x"), total, native_view(weight.float(), "weight"), eps, native_view(out, "out")
    dispatch.extension().add_rms_norm(*arrays, threads=thread_count(threads), isa=isa())
    return out


def norm_rotary(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    *,
    backend: str = "auto",
    threads: int | None = None,
) -> None:
    """RMS norm over each head and rotary embedding (halves rotated), in place and in one pass.

    Args:
        x: queries or keys, float32 or bfloat16 [T, heads, dim]; overwritten. Tokens may be strided (columns of a
            merged product), heads and dim are contiguous.
        weight: of the norm, [dim]; None leaves the norm out.
        eps: added to the mean square.
        cos: [T, dim]; None leaves the rotary embedding out.
        sin: [T, dim]; None with cos.
        backend: auto, reference or cpp (CPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    if (cos is None) != (sin is None):
        raise ArgumentError("cos, sin: one of them is None; give both or neither")
    if weight is None and cos is None:
        return
    if resolve_for(x.device, backend, triton_lacks="norm_rotary") == "reference":
        parts = [None if part is None else part.float() for part in (weight, cos, sin)]
        x.copy_(reference.norm_rotary(x.float(), parts[0], eps, *parts[1:]))
        return
    arrays = [None if part is None else native_view(part.float(), "norm_rotary") for part in (weight, cos, sin)]
    options = {"threads": thread_count(threads), "isa": isa()}
    dispatch.extension().norm_rotary(native_view(x, "x"), arrays[0], eps, *arrays[1:], **options)
