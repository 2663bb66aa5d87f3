"""Activation functions of gated MLPs, with their slopes: silu, gelu (by the error function) and gelu_tanh."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def curve(gate: tl.tensor, activation: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """act(gate) and act'(gate) in float32; whichever is not used costs nothing."""
    if activation == "silu":
        s = tl.sigmoid(gate)
        return gate * s, s * (1.0 + gate * (1.0 - s))
    if activation == "gelu":
        below = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
        return gate * below, below + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    g = tl.minimum(tl.maximum(gate, -10.0), 10.0)  # at 10 the sigmoid is 0 or 1 to 38 digits
    s = tl.sigmoid(1.5957691216057308 * g * (1.0 + 0.044715 * g * g))
    rise = 1.5957691216057308 * (1.0 + 0.134145 * g * g)
    return tl.maximum(gate, -10.0) * s, s * (1.0 + g * (1.0 - s) * rise)
