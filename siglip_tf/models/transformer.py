"""The encoder that both towers share: pre-norm blocks, bidirectional attention, a final norm."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from siglip_tf.models.block_loop import loop_over_blocks
from siglip_tf.models.variants import TowerSize
from siglip_tf.primitives.activations import gelu_tanh
from siglip_tf.primitives.attention import MultiHeadAttention
from siglip_tf.primitives.dropout import Dropout, StochasticDepth
from siglip_tf.primitives.normalization import LayerNorm
from siglip_tf.primitives.rematerialization import rematerialize, stored

# Which of a block's four steps (projections, attention, output projection, MLP) are one, by remat policy.
_JOINED_STEPS = {
    "none": ((0, 1), (1, 2), (2, 3), (3, 4)),
    "selective": ((0, 1), (1, 2), (2, 3), (3, 4)),
    "attention": ((0, 2), (2, 3), (3, 4)),
    "block": ((0, 4),),
}
REMAT_POLICIES = tuple(_JOINED_STEPS)
ATTENTIONS = ("einsum", "fused")


@dataclasses.dataclass(frozen=True)
class Step:
    """A part of a block: a function of named tensors.

    Attributes:
        reads: names of its arguments.
        writes: names of its results.
        run: tensors -> a tensor or a tuple of tensors.
        layers: those that it calls.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    run: Callable[..., Any]
    layers: tuple[keras.layers.Layer, ...]

    def __call__(self, *tensors):
        return self.run(*tensors)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return [v for layer in self.layers for v in layer.trainable_variables]

    def then(self, other: "Step") -> "Step":
        """Both steps as one."""
        reads = self.reads + tuple(n for n in other.reads if n not in self.reads + self.writes)

        def run(*tensors):
            known = dict(zip(reads, tensors, strict=True))
            known.update(zip(self.writes, tf.nest.flatten(self(*tensors[: len(self.reads)])), strict=True))
            return other(*(known[name] for name in other.reads))

        return Step(reads, other.writes, run, self.layers + other.layers)


class MLP(keras.layers.Layer):
    """Dense, GELU (tanh approximation), dropout, dense.

    Args:
        hidden: hidden units.
        dropout: rate of dropped hidden units.

    Call arguments:
        x: (..., width); the result has the same shape.
    """

    def __init__(self, hidden: int, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.dropout = hidden, dropout

    def build(self, shape):
        def dense(units, name):
            return keras.layers.Dense(
                units,
                kernel_initializer=keras.initializers.GlorotUniform(),
                bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
                name=name,
                dtype=self.dtype_policy,
            )

        self.fc1, self.fc2 = dense(self.hidden, "fc1"), dense(shape[-1], "fc2")
        self.drop = Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
        self.fc1.build(shape)
        self.drop.build(None)
        self.fc2.build((*shape[:-1], self.hidden))

    def call(self, x, training=False):
        return self.fc2(self.drop(gelu_tanh(self.fc1(x)), training=training))


class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + MLP(norm(x)); dropout and stochastic depth on both branches.

    Tokens of all examples are rows of one matrix: 196 tokens are no multiple of a TPU's tiles, and a third axis would
    be padded, or laid out otherwise and copied, between any two matmuls.

    Args:
        size: of the tower.
        dropout: rate of dropped units behind attention, inside and behind the MLP.
        stochastic_depth: rate of dropped branches.
        remat: what is computed again in the backward pass; see `Encoder`.
        attention: "einsum", or "fused" for one kernel on TPU; see `Encoder`.

    Call arguments:
        x: (batch * tokens, width), built for (batch, tokens, width); the result has the same shape.
    """

    def __init__(
        self,
        size: TowerSize,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
        attention: str = "einsum",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.dropout, self.stochastic_depth, self.remat = size, dropout, stochastic_depth, remat
        self.fused = attention == "fused"

    def build(self, shape):
        self._tokens, self._width = shape[1:]
        policy = {"dtype": self.dtype_policy}
        self.attention_norm = LayerNorm(name="attention_norm", **policy)
        self.attention = MultiHeadAttention(self.size.num_heads, name="attention", **policy)
        self.mlp_norm = LayerNorm(name="mlp_norm", **policy)
        self.mlp = MLP(self.size.mlp_dim, self.dropout, name="mlp", **policy)
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(shape)
        self.attention_drop = Dropout(self.dropout, name="attention_drop", **policy)
        self.mlp_drop = Dropout(self.dropout, name="mlp_drop", **policy)
        self.attention_path = StochasticDepth(self.stochastic_depth, name="attention_path", **policy)
        self.mlp_path = StochasticDepth(self.stochastic_depth, name="mlp_path", **policy)
        for layer in (self.attention_drop, self.mlp_drop, self.attention_path, self.mlp_path):
            layer.build(shape)

    def call(self, x, training=False):
        tensors = {"x": x}
        for step in self.steps(training):
            run = step
            if training and self.remat != "none":
                run = functools.partial(rematerialize, step, step.trainable_variables)
            tensors.update(zip(step.writes, tf.nest.flatten(run(*(tensors[name] for name in step.reads))), strict=True))
        return tensors["y"]

    def steps(self, training: bool) -> list[Step]:
        """The block as steps from "x" to "y"; under a remat policy, what steps read is what is kept for going back."""
        attend = self.attention
        steps = [
            Step(
                ("x",),
                ("q", "k", "v"),
                lambda x: attend.project_rows(self.attention_norm(x)),
                (self.attention_norm, attend.query, attend.key, attend.value),
            ),
            Step(("q", "k", "v"), ("a",), lambda q, k, v: attend.attend_rows(q, k, v, self._tokens, self.fused), ()),
            Step(
                ("x", "a"),
                ("m",),
                lambda x, a: (
                    x + self._dropped(attend.out(a, flat=True), self.attention_drop, self.attention_path, training)
                ),
                (attend.out,),
            ),
            Step(("m",), ("y",), lambda m: self._mlp_half(m, training), (self.mlp_norm, self.mlp)),
        ]
        joined = []
        for first, last in _JOINED_STEPS[self.remat]:
            joined.append(functools.reduce(Step.then, steps[first:last]))
        return joined

    def _mlp_half(self, x, training):
        hidden = self.mlp.fc1(self.mlp_norm(x))
        hidden = self._by_example(gelu_tanh(hidden), training, self.mlp.drop)
        # A TPU's compiler makes one kernel of both matmuls, in which the first is slower than it is alone.
        return x + self._dropped(self.mlp.fc2(stored(hidden)), self.mlp_drop, self.mlp_path, training)

    def _dropped(self, branch, drop, path, training):
        return self._by_example(branch, training, drop, path)

    def _by_example(self, rows, training, *layers):
        """Random layers see (batch, tokens, units), as masks belong to examples."""
        if not training or not any(layer.rate for layer in layers):
            return rows
        units = rows.shape[1]
        x = tf.reshape(rows, (-1, self._tokens, units))
        for layer in layers:
            x = layer(x, training=training)
        return tf.reshape(x, (-1, units))


class Encoder:
    """The blocks and the final norm of a tower; mixed into it, so that weights are named `block_3/...`.

    Remat policies, by what a block keeps for the backward pass, in tensors of the residual stream's size: "none" keeps
    every tensor, "selective" six (input, queries, keys, values, what attention gives, the MLP's input), "attention"
    three (input, what attention gives, the MLP's input), "block" one, its input.
    """

    def build_encoder(
        self,
        size: TowerSize,
        shape,
        dropout: float,
        stochastic_depth: float,
        remat: str,
        attention: str,
        scan_layers: bool,
    ) -> None:
        """Makes blocks and norm for inputs of `shape` (batch, tokens, width).

        Raises:
            ValueError: for an unknown remat policy or way of attention, or a loop over blocks that cannot be one.
        """
        if remat not in REMAT_POLICIES:
            raise ValueError(f"Expected remat to be one of {', '.join(REMAT_POLICIES)}. Received: {remat!r}.")
        if attention not in ATTENTIONS:
            raise ValueError(f"Expected attention to be one of {', '.join(ATTENTIONS)}. Received: {attention!r}.")
        if scan_layers and (remat == "none" or stochastic_depth):
            raise ValueError(
                "Expected a remat policy and no stochastic depth with scan_layers=True. Received: "
                f"remat={remat!r}, stochastic_depth={stochastic_depth}."
            )
        self._scan_layers = scan_layers
        # Deeper blocks are dropped more often, as is usual for stochastic depth.
        rates = [stochastic_depth * i / max(size.depth - 1, 1) for i in range(size.depth)]
        self.blocks = [
            Block(size, dropout, rate, remat, attention, name=f"block_{i}", dtype=self.dtype_policy)
            for i, rate in enumerate(rates)
        ]
        for block in self.blocks:
            block.build(shape)
        self.final_norm = LayerNorm(name="final_norm", dtype=self.dtype_policy)
        self.final_norm.build(shape)

    def encode(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """(batch, tokens, width) -> (batch, tokens, width)."""
        tokens, width = x.shape[1:]
        x = tf.reshape(x, (-1, width))
        if training and self._scan_layers:
            x = loop_over_blocks(self.blocks, x)
        else:
            for block in self.blocks:
                x = block(x, training=training)
        return tf.reshape(self.final_norm(x), (-1, tokens, width))
