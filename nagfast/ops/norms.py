"""RMS norms, with what stands next to them in a decoder layer: the residual sum before, the rotary embedding after."""

from __future__ import annotations

from importlib import import_module

import torch

from nagfast import reference
from nagfast.errors import ArgumentError
from nagfast.ops import dispatch
from nagfast.ops.dispatch import isa, native_view, require_columns, resolve_for, thread_count

KERNEL_WIDTH = 16_384  # most values of a row that the kernels hold


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
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    check_norm(x, residual, weight, out)
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    chosen = resolve_for(x.device, backend, triton_lacks=too_wide(x.shape[1]))
    if chosen == "triton":
        import_module("nagfast.kernels.rms_norm").add_rms_norm(x, residual, weight, eps, out)
        return out
    if chosen == "reference":
        return out.copy_(reference_norm(x, residual, weight, eps))
    total = None if residual is None else native_view(residual, "residual")
    arrays = native_view(x, "x"), total, native_view(weight.float(), "weight"), eps, native_view(out, "out")
    dispatch.extension().add_rms_norm(*arrays, threads=thread_count(threads), isa=isa())
    return out


def check_norm(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, out: torch.Tensor | None) -> None:
    """Refuse what add_rms_norm does not take."""
    for name, other in (("residual", residual), ("out", out)):
        if other is not None and (other.shape != x.shape or other.dtype != x.dtype):
            raise ArgumentError(
                f"{name}: got {other.dtype} {list(other.shape)}; give {x.dtype} {list(x.shape)}, as x is"
            )
    if x.ndim != 2 or weight.shape != x.shape[1:]:
        raise ArgumentError(f"x: got {list(x.shape)} with a weight of {list(weight.shape)}; give [T, H] and [H]")
    require_columns(x=x, residual=residual, out=out)


def too_wide(width: int) -> str:
    """What resolve_for is told of rows that the kernels do not hold in registers."""
    return f"rows of {width} (above {KERNEL_WIDTH})" if width > KERNEL_WIDTH else ""


def reference_norm(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Residual sum in place and its norm, in torch operations."""
    base = x if residual is None else residual.add_(x)
    return reference.rms_norm(base.float(), weight.float(), eps).to(x.dtype)


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
        cos: float32 or bfloat16 [T, dim]; None leaves the rotary embedding out.
        sin: as cos; None with it.
        backend: auto, reference, cpp (CPU tensors) or triton (GPU tensors).
        threads: CPU threads, default as many as torch uses.
    """
    if (cos is None) != (sin is None):
        raise ArgumentError("cos, sin: one of them is None; give both or neither")
    if weight is None and cos is None:
        return
    _check_heads(x, weight, cos, sin)
    chosen = resolve_for(x.device, backend)
    if chosen == "triton":
        import_module("nagfast.kernels.norm_rotary").norm_rotary(x, weight, eps, cos, sin)
        return
    if chosen == "reference":
        parts = [None if part is None else part.float() for part in (weight, cos, sin)]
        x.copy_(reference.norm_rotary(x.float(), parts[0], eps, *parts[1:]))
        return
    arrays = [None if part is None else native_view(part.float(), "norm_rotary") for part in (weight, cos, sin)]
    options = {"threads": thread_count(threads), "isa": isa()}
    dispatch.extension().norm_rotary(native_view(x, "x"), arrays[0], eps, *arrays[1:], **options)


def _check_heads(
    x: torch.Tensor, weight: torch.Tensor | None, cos: torch.Tensor | None, sin: torch.Tensor | None
) -> None:
    tokens, _, dim = x.shape
    if dim % 2 or (x.shape[1] > 1 and x.stride(1) != dim):
        raise ArgumentError(
            f"x: got {list(x.shape)} with strides {list(x.stride())}; give [T, heads, dim], heads and dim contiguous "
            "and dim even"
        )
    require_columns(x=x)
    if weight is not None and weight.shape != (dim,):
        raise ArgumentError(f"weight: got {list(weight.shape)}; give [{dim}]")
    for name, angles in (("cos", cos), ("sin", sin)):
        if angles is not None and (angles.shape != (tokens, dim) or not angles.is_contiguous()):
            raise ArgumentError(f"{name}: got {list(angles.shape)}; give [{tokens}, {dim}], contiguous")
