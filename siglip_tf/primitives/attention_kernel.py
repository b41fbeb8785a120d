"""The TPU kernel of self-attention, in Pallas. Logits and softmax stay in the chip's vector memory and never reach HBM.

Queries, keys, and values are rows (batch * tokens, heads * head size), as their projections return them. The kernel
slices heads from the lanes, so nothing is transposed or padded in memory. A block holds a few examples and a few heads.
Matmuls read aligned windows of rows, because 196 tokens, for example, are not a multiple of the 16 rows of a bfloat16
tile. A mask hides the few rows of a neighboring example in a window, and it separates short texts that share a window.
Logits are transposed, keys by queries, so that softmax runs down sublanes and not across lanes.

This file needs jax at trace time only, and is imported only when the kernel is used.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

if not jax.config.jax_platforms:
    # TensorFlow uses the chips. jax only compiles the text of a kernel and must not claim them.
    jax.config.update("jax_platforms", "cpu")

_ROWS = 16  # Rows of a bfloat16 tile.
_SUBLANES = 8  # Rows of a float32 tile.
_LANES = 128
_BLOCK_ROWS = 784
_MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Shape:
    """The shapes and dtype of a kernel.

    Attributes:
        rows: batch * tokens.
        tokens: number of tokens of an example, which divides `rows`.
        heads: number of heads.
        head_size: size of a head.
        dtype: name of the dtype of all arguments and results.
    """

    rows: int
    tokens: int
    heads: int
    head_size: int
    dtype: str

    @property
    def width(self) -> int:
        return self.heads * self.head_size


@functools.lru_cache(maxsize=64)
def backend_config(shape: Shape, direction: str) -> str:
    """Returns the compiled kernel as text for the XLA custom call `tpu_custom_call`.

    Args:
        shape: the shapes and dtype.
        direction: "forward" or "backward".
    """
    count = 3 if direction == "forward" else 4
    argument = jax.ShapeDtypeStruct((shape.rows, shape.width), shape.dtype)
    call = jax.jit(functools.partial(attend if direction == "forward" else differentiate, shape))
    module = call.trace(*[argument] * count).lower(lowering_platforms=("tpu",)).compiler_ir()
    found = []

    def visit(op):
        if op.operation.name == "stablehlo.custom_call":
            found.append(op.operation.attributes["backend_config"].value)
        return _WALK_ON

    module.operation.walk(visit)
    (config,) = found
    return config


def attend(shape: Shape, q, k, v, interpret: bool = False):
    """Computes attention: q, k, v, (rows, width) each, to (rows, width).

    `interpret` runs the kernel by plain XLA ops on any platform.
    """
    return _call(_forward, 1, shape, interpret, q, k, v)


def differentiate(shape: Shape, q, k, v, upstream, interpret: bool = False):
    """Computes the gradients of q, k, v from the upstream gradient, all (rows, width). Computes the softmax again."""
    return _call(_backward, 3, shape, interpret, q, k, v, upstream)


def _call(kernel, outputs, shape, interpret, *arguments):
    examples, columns = _block(shape)
    spec = pl.BlockSpec((examples * shape.tokens, columns), lambda i, j: (i, j))
    result = jax.ShapeDtypeStruct((shape.rows, shape.width), shape.dtype)
    return pl.pallas_call(
        functools.partial(kernel, shape.tokens, shape.head_size),
        grid=(shape.rows // (examples * shape.tokens), shape.width // columns),
        in_specs=[spec] * len(arguments),
        out_specs=[spec] * outputs if outputs > 1 else spec,
        out_shape=[result] * outputs if outputs > 1 else result,
        interpret=interpret,
        compiler_params=None if interpret else pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
    )(*arguments)


def _block(shape):
    """Returns (examples, columns) of a block: whole tiles of rows, if the batch allows it, and whole lanes of heads."""
    batch, unit = shape.rows // shape.tokens, _group(shape.tokens)
    unit = math.lcm(unit, _ROWS // math.gcd(_ROWS, shape.tokens))
    examples = batch
    if batch % unit == 0:
        fits = [n for n in range(unit, batch + 1, unit) if batch % n == 0 and n * shape.tokens <= _BLOCK_ROWS]
        examples = max(fits, default=unit)
    heads = math.lcm(shape.head_size, _LANES) // shape.head_size
    return examples, heads * shape.head_size if shape.heads % heads == 0 else shape.width


def _group(tokens):
    """Returns how many examples share a window."""
    return max(_LANES // tokens, 1)


def _windows(rows, tokens):
    """Yields (start, stop, first, last) for each window: its rows, and which of these rows are its own."""
    size = tokens * min(_group(tokens), rows // tokens)
    for low in range(0, rows, size):
        high = min(low + size, rows)
        start, stop = low // _ROWS * _ROWS, min(-(-high // _ROWS) * _ROWS, rows)
        yield start, stop, low - start, high - start


def _forward(tokens, head_size, q, k, v, out):
    for head in range(q.shape[1] // head_size):
        columns = slice(head * head_size, (head + 1) * head_size)
        for start, stop, first, last in _windows(q.shape[0], tokens):
            rows = slice(start, stop)
            weights = _weights(q[rows, columns], k[rows, columns], start, first, last, tokens)
            _put(out, rows, columns, _dot(weights.astype(v.dtype), v[rows, columns], 0, 0), first)


def _backward(tokens, head_size, q, k, v, upstream, dq, dk, dv):
    scale = head_size**-0.5
    for head in range(q.shape[1] // head_size):
        columns = slice(head * head_size, (head + 1) * head_size)
        for start, stop, first, last in _windows(q.shape[0], tokens):
            rows = slice(start, stop)
            queries, keys = q[rows, columns], k[rows, columns]
            # The queries of a neighboring example must not add to these keys and values.
            up = _mask_rows(upstream[rows, columns].astype(jnp.float32), first, last, 0.0).astype(upstream.dtype)
            weights = _weights(queries, keys, start, first, last, tokens)
            _put(dv, rows, columns, _dot(weights.astype(up.dtype), up, 1, 0), first)
            slopes = _dot(v[rows, columns], up, 1, 1)
            slopes = weights * (slopes - (weights * slopes).sum(0, keepdims=True))
            slopes = (slopes * scale).astype(queries.dtype)
            _put(dk, rows, columns, _dot(slopes, queries, 1, 0), first)
            _put(dq, rows, columns, _dot(slopes, keys, 0, 0), first)


def _weights(queries, keys, start, first, last, tokens):
    """Returns the softmax over keys, transposed: (keys, queries) float32."""
    logits = _dot(keys, queries, 1, 1) * queries.shape[1] ** -0.5
    if _group(tokens) > 1:
        example = [_divided(jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis) + start, tokens) for axis in (0, 1)]
        logits = jnp.where(example[0] == example[1], logits, _MASKED)
    else:
        logits = _mask_rows(logits, first, last, _MASKED)
    exponentials = jnp.exp(logits - logits.max(0, keepdims=True))
    return exponentials * (1 / exponentials.sum(0, keepdims=True))


def _divided(row, tokens):
    """Returns row // tokens for small rows by a multiplication and a shift. The chip cannot divide integers."""
    return (row * -(-(1 << 20) // tokens)) >> 20


def _dot(a, b, axis_a, axis_b):
    dimensions = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _mask_rows(x, first, last, value):
    """Replaces rows outside [first, last) by `value`, and touches only the tiles at the edges."""
    top = min(-(-first // _SUBLANES) * _SUBLANES, x.shape[0])
    bottom = max(last // _SUBLANES * _SUBLANES, top) if last < x.shape[0] else x.shape[0]

    def masked(part, offset):
        row = jax.lax.broadcasted_iota(jnp.int32, part.shape, 0) + offset
        return jnp.where((row >= first) & (row < last), part, value)

    parts = [masked(x[:top], 0)] if top else []
    parts += [x[top:bottom]] if bottom > top else []
    parts += [masked(x[bottom:], bottom)] if bottom < x.shape[0] else []
    return jnp.concatenate(parts, 0) if len(parts) > 1 else parts[0]


def _put(ref, rows, columns, x, first):
    """Writes a window's own rows. Windows come in order, so the next window overwrites the rows after the last."""
    x = x.astype(ref.dtype)
    top = -(-first // _ROWS) * _ROWS
    if top:
        edge = (slice(rows.start, rows.start + top), columns)
        row = jax.lax.broadcasted_iota(jnp.int32, (top, x.shape[1]), 0)
        kept = jnp.where(row >= first, x[:top].astype(jnp.float32), ref[edge].astype(jnp.float32))
        ref[edge] = kept.astype(ref.dtype)
    ref[slice(rows.start + top, rows.stop), columns] = x[top:]


def _walk_result():
    from jax._src.lib.mlir import ir

    return ir.WalkResult.ADVANCE


_WALK_ON = _walk_result()
