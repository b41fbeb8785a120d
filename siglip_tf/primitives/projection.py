"""The dense layer of the towers, with any number of input and output axes and an optional low-rank adapter (LoRA)."""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from siglip_tf.primitives.bias import add_bias
from siglip_tf.primitives.initializers import xavier_flattened
from siglip_tf.primitives.tensorflow_internals import weights_may_be_added


@keras.saving.register_keras_serializable(package="siglip_tf")
class Projection(keras.layers.Layer):
    """Computes rows @ kernel + bias or, with an adapter, rows @ kernel + bias + scale * (rows @ a) @ b.

    The kernel has the input axes and then the output axes, as checkpoints store it. The product uses it as one matrix.

    Args:
        input_axes: sizes of the input axes.
        output_axes: sizes of the output axes.
        kernel_initializer: initializer of the kernel; by default Xavier uniform of the kernel as one matrix.
        bias_initializer: initializer of the bias.
        bias: "add"; "add_by_matmul", whose gradient a TPU sums on its matrix unit (see `add_bias`); or "unused", which
            creates the weight, because checkpoints have it, but does not use it.

    Call arguments:
        rows: (..., product of the input axes).

    Returns:
        (..., product of the output axes).

    Source of the adapter: "LoRA", https://arxiv.org/abs/2106.09685, section 4.1.
    """

    def __init__(
        self,
        input_axes: Sequence[int],
        output_axes: Sequence[int],
        kernel_initializer: keras.initializers.Initializer | None = None,
        bias_initializer: str | keras.initializers.Initializer = "zeros",
        bias: str = "add",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.input_axes, self.output_axes, self.bias_use = tuple(input_axes), tuple(output_axes), bias
        self.flat = math.prod(self.input_axes), math.prod(self.output_axes)
        self.kernel_initializer = keras.initializers.get(kernel_initializer or xavier_flattened(*self.flat))
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.lora_enabled = False

    def build(self, _=None):
        self.kernel = self.add_weight(
            shape=(*self.input_axes, *self.output_axes),
            initializer=self.kernel_initializer,
            name="kernel",
        )
        self.bias = self.add_weight(shape=self.output_axes, initializer=self.bias_initializer, name="bias")

    def enable_lora(self, rank: int, lora_alpha: float | None = None) -> None:
        """Freezes the kernel and trains a low-rank change to it, like `keras.layers.Dense.enable_lora`.

        It does nothing if the layer already has this adapter, because a loop over all layers with this method may visit
        a layer twice.

        Args:
            rank: rank of the change.
            lora_alpha: the change is scaled by lora_alpha / rank. The default is the rank.

        Raises:
            ValueError: the rank is below 1 or above the kernel's, or the layer already has another adapter.
        """
        self.check_lora(rank, lora_alpha)
        if self.lora_enabled:
            return
        # The adapter is float32 under every policy, because the change and its steps are small compared to the kernel.
        weight = {"dtype": "float32"}
        with weights_may_be_added(self):
            self.lora_kernel_a = self.add_weight(
                shape=(self.flat[0], rank), initializer="he_uniform", name="lora_kernel_a", **weight
            )
            self.lora_kernel_b = self.add_weight(
                shape=(rank, self.flat[1]), initializer="zeros", name="lora_kernel_b", **weight
            )
        self.kernel.trainable = False
        self.lora_enabled, self.lora_rank = True, rank
        self.lora_alpha = float(rank if lora_alpha is None else lora_alpha)

    def check_lora(self, rank: int, lora_alpha: float | None = None) -> None:
        """Raises the errors of `enable_lora`."""
        check_rank(rank, min(self.flat), self.path)
        if lora_alpha is not None and not lora_alpha > 0:
            raise ValueError(f"Expected lora_alpha > 0. Received: {lora_alpha!r}.")
        asked = (rank, float(rank if lora_alpha is None else lora_alpha))
        if self.lora_enabled and asked != (self.lora_rank, self.lora_alpha):
            raise ValueError(
                f"Expected a layer without an adapter. {self.path} has one of rank {self.lora_rank} and alpha "
                f"{self.lora_alpha:g}."
            )

    @property
    def lora_scale(self) -> float:
        """The factor of the adapter's product."""
        return self.lora_alpha / self.lora_rank

    def effective_kernel(self, dtype: tf.DType | str) -> tf.Tensor:
        """Returns the kernel with the adapter merged into it: (*input_axes, *output_axes)."""
        kernel = tf.cast(self.kernel, dtype)
        if not self.lora_enabled:
            return kernel
        change = tf.matmul(tf.cast(self.lora_kernel_a, dtype), tf.cast(self.lora_kernel_b, dtype))
        return kernel + tf.cast(self.lora_scale, dtype) * tf.reshape(change, kernel.shape)

    def call(self, rows):
        shape = rows.shape
        if shape.rank != 2:
            rows = tf.reshape(rows, (-1, self.flat[0]))
        y = tf.matmul(rows, tf.reshape(self.kernel, self.flat))
        if self.lora_enabled:
            a, b = tf.cast(self.lora_kernel_a, y.dtype), tf.cast(self.lora_kernel_b, y.dtype)
            y += tf.cast(self.lora_scale, y.dtype) * tf.matmul(tf.matmul(rows, a), b)
        bias = tf.reshape(self.bias, (-1,))
        unused, by_matmul = self.bias_use == "unused", self.bias_use == "add_by_matmul"
        y = with_zero_gradient(y, bias) if unused else add_bias(y, bias, by_matmul)
        if shape.rank != 2:
            y = tf.reshape(y, (*(-1 if size is None else size for size in shape[:-1]), self.flat[1]))
        return y

    @property
    def matrices(self) -> list[tuple[keras.Variable, tuple[int, ...]]]:
        """The kernel and the bias with their shapes in a product of rows."""
        return [(self.kernel, self.flat), (self.bias, self.flat[1:])]

    def get_config(self):
        axes = {"input_axes": self.input_axes, "output_axes": self.output_axes}
        initializers = {
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }
        return {**super().get_config(), **axes, **initializers, "bias": self.bias_use}


@tf.custom_gradient
def with_zero_gradient(
    y: tf.Tensor, unused: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Returns y. The gradient of `unused` is zero rather than missing, so that no optimizer warns about it.

    A bias of the keys adds the same number to all logits of a query, which softmax cancels. If it were added, its
    gradient would be rounding noise, which optimizers that normalize gradients would scale up to full steps.
    """
    return tf.identity(y), lambda upstream: (upstream, tf.zeros_like(unused))


def check_rank(rank: int, largest: int, what: str) -> None:
    """Raises a ValueError if no adapter of `what` can have the rank."""
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= largest:
        raise ValueError(f"Expected a LoRA rank of 1 to {largest}, for {what}. Received: rank={rank!r}.")
