"""The internals of TensorFlow and Keras that this package needs: for each, the reason and what would replace it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.eager import cancellation


@contextlib.contextmanager
def gradients_already_summed(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps `optimizer.apply` from summing gradients over replicas inside the context.

    Keras clips gradients before it sums them, which is wrong for a loss over the global batch, so the train step sums
    them first. tf.keras 2 had `apply_gradients(skip_gradients_aggregation=True)`. A similar public argument would
    replace this hook. An attribute of the instance overrides the method and is removed at the end.
    """
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
    try:
        yield
    finally:
        # Replicas trace the same call in turn, and the first to finish removes the attribute.
        vars(optimizer).pop("_all_reduce_sum_gradients", None)


def strategy_of_optimizer(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """Returns the strategy under which an optimizer was created. Keras has no public name for it."""
    return optimizer._distribution_strategy


def variables_of_optimizer(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables that a built optimizer updates. Keras has no public name for them."""
    return list(optimizer._trainable_variables)


@contextlib.contextmanager
def weights_may_be_added(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets a built layer create more weights, as Keras' own `enable_lora` does. There is no public way to do it."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def optimization_barrier(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the same tensors behind XLA's optimization barrier. `tf.raw_ops` does not have the op."""
    return gen_xla_ops.xla_optimization_barrier(list(tensors))


def xla_custom_call(
    arguments: Sequence[tf.Tensor], target: str, config: str, like: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Runs an XLA custom call with results of the shapes and dtypes of `like`. `tf.raw_ops` does not have the op."""
    outputs = gen_xla_ops.xla_custom_call_v2(
        list(arguments),
        call_target_name=target,
        backend_config=config,
        has_side_effect=False,
        result_dtypes=[tensor.dtype for tensor in like],
        result_shapes=[tensor.shape for tensor in like],
    )
    for output, tensor in zip(outputs, like, strict=True):
        output.set_shape(tensor.shape)
    return outputs


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns every layer inside a model, outer layers first. `model.layers` holds the outermost layers only."""
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]


class Cancellation:
    """Lets another thread end what TensorFlow executes inside the context.

    A step that waits in C++ for a batch receives neither Python's exceptions nor signals. TensorFlow functions that are
    called inside the context raise `tf.errors.CancelledError` after `cancel` is called.

    A timeout of `tf.data` iterators, or a public call that cancels a function, would replace it. TensorFlow 2.21 has
    neither.
    """

    def __init__(self):
        self._manager = cancellation.CancellationManager()
        self._context = cancellation.CancellationManagerContext(self._manager)

    def __enter__(self) -> Cancellation:
        self._context.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)

    def cancel(self) -> None:
        """Ends the execution, from any thread."""
        self._manager.start_cancel()
