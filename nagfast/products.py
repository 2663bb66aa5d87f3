"""Matrix products with frozen weights, each an object that holds its weight the way it multiplies."""

from __future__ import annotations

from typing import Protocol, Self

import torch

from nagfast import ops


class Product(Protocol):
    """x @ weight.T + bias."""

    rows: int
    """Width of the result."""

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The product of x [T, hidden]; `out` [T, rows] is memory that it may be put in."""

    def tail(self, first: int) -> Product:
        """The product with the weight's rows from `first` on; shares the weight."""


class PlainProduct:
    """In the arithmetic of the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Hold a weight.

        Args:
            weight: [rows, hidden].
            bias: [rows].
        """
        self.rows = weight.shape[0]
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The product of x [T, hidden]; `out` [T, rows] is memory that it may be put in."""
        return ops.product(x, self.weight, self.bias, out=out)

    def tail(self, first: int) -> Self:
        """The product with the weight's rows from `first` on; shares the weight."""
        return type(self)(self.weight[first:], None if self.bias is None else self.bias[first:])


class Float8Product:
    """In float8 (e4m3), one scale per row of the weight and one per token, summed in float32, rounded to bfloat16."""

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """Hold a quantised weight.

        Args:
            weight: float8_e4m3fn [rows, hidden].
            scales: float32 [rows, 1].
            bias: bfloat16 [rows].
        """
        self.rows = weight.shape[0]
        self.weight, self.scales, self.bias = weight, scales, bias

    @classmethod
    def of(cls, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Self:
        """Quantise a bfloat16 weight [rows, hidden]."""
        return cls(*ops.quantize_rows(weight), bias)

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The product of x [T, hidden] in out [T, rows]."""
        self.multiply(*ops.quantize_rows(x), out)
        return out if self.bias is None else out.add_(self.bias)

    def multiply(self, values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """The product of quantised tokens (float8 [T, hidden], float32 [T, 1]), no bias, in `out`."""
        torch._scaled_mm(
            values,
            self.weight.t(),
            scale_a=scales,
            scale_b=self.scales.t(),
            out_dtype=out.dtype,
            use_fast_accum=True,
            out=out,
        )

    def tail(self, first: int) -> Self:
        """The product with the weight's rows from `first` on; shares the weight."""
        bias = None if self.bias is None else self.bias[first:]
        return type(self)(self.weight[first:], self.scales[first:], bias)


class EmulatedFloat8Product(Float8Product):
    """The same numbers where there is no such instruction: the quantised values multiplied in float32."""

    def multiply(self, values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """The product of quantised tokens (float8 [T, hidden], float32 [T, 1]), no bias, in `out`."""
        out.copy_((values.float() * scales) @ (self.weight.float() * self.scales).t())
