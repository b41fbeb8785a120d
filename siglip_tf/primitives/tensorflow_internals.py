"""The parts of TensorFlow and Keras that have no public name, each with why it is needed and what would replace it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.eager import cancellation


@contextlib.contextmanager
def gradients_already_summed(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Inside, `optimizer.apply` does not sum gradients over replicas; outside it does, as ever.

    Keras clips gradients before it sums them, which is wrong for a loss over the global batch, so the train step sums
    them first. tf.keras 2 had `apply_gradients(skip_gradients_aggregation=True)`; a public argument like it would
    replace this hook. The method is hidden by an attribute of the instance and shows again at the end.
    """
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
    try:
        yield
    finally:
        # Replicas trace the same call in turns; the first one that ends has removed the attribute.
        vars(optimizer).pop("_all_reduce_sum_gradients", None)


def strategy_of_optimizer(optimizer: keras.optimizers.Optimizer) -> tf.distribute.Strategy:
    """The strategy under which an optimizer was made. Keras has no public name for it."""
    return optimizer._distribution_strategy


def variables_of_optimizer(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that a built optimizer can update. Keras has no public name for them."""
    return list(optimizer._trainable_variables)


@contextlib.contextmanager
def weights_may_be_added(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets a built layer make more weights, as Keras' own `enable_lora` does. There is no public way."""
    layer._tracker.unlock()
    try:
        yield
    finally:
        layer._tracker.lock()


def optimization_barrier(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The same tensors behind XLA's optimization barrier. `tf.raw_ops` does not have the op."""
    return gen_xla_ops.xla_optimization_barrier(list(tensors))


def xla_custom_call(
    arguments: Sequence[tf.Tensor], target: str, config: str, like: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Results of an XLA custom call with the shapes and dtypes of `like`. `tf.raw_ops` does not have the op."""
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
    """Every layer inside a model, an outer one before those inside it. `model.layers` holds the outermost alone."""
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]


class Cancellation:
    """Lets another thread end what TensorFlow executes inside `with`.

    Why: a step that waits in C++ for a batch hears neither Python's exceptions nor signals. Functions that are called
    inside raise `tf.errors.CancelledError` once `cancel` was called.

    Public call that would replace it: a timeout of `tf.data` iterators, or `tf.config` for cancelling a function.
    There is none in TensorFlow 2.21.
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
        """Ends what runs, from any thread."""
        self._manager.start_cancel()
