"""A model's weights as a SavedModel stores them: float32, bfloat16, float16, or int8 with a scale for each channel."""

import keras
import numpy as np
import tensorflow as tf

PRECISIONS = ("float32", "bfloat16", "float16", "int8")

_TOKEN_TABLE = "text/token_embedding/embedding"


class StoredWeights(tf.Module):
    """Copies of a model's weights in fewer bits, widened to float32 where they are used.

    Arithmetic stays what the model's dtype policy says. Below float32 only matrices are narrowed: biases, norms,
    temperature and bias are a thousandth of the bytes and want their digits.

    Args:
        model: a `SigLIP`.
        precision: one of `PRECISIONS`. "int8" is symmetric, with one float32 scale for each output channel (each
            row of the token table).

    Raises:
        ValueError: for another precision, or a matrix that float16 cannot hold.
    """

    def __init__(self, model: keras.Model, precision: str = "float32"):
        super().__init__(name="weights")
        if precision not in PRECISIONS:
            raise ValueError(f"Expected precision to be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
        self.precision = precision
        self._stored: dict[str, tf.Variable] = {}
        self._scales: dict[str, tf.Variable] = {}
        for name, variable in model.named_weights().items():
            value = np.asarray(variable)
            narrow = is_matrix(name, value) and precision != "float32"
            if narrow and precision == "int8":
                value, scale = quantize(value, contracted_axes(name, value.ndim))
                self._scales[name] = tf.Variable(scale, trainable=False, name=f"{name}/scale")
            elif narrow:
                value = cast_to_float16(value, name) if precision == "float16" else tf.cast(value, precision)
            self._stored[name] = tf.Variable(value, trainable=False, name=name)

    @property
    def bytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(v.dtype.size * int(np.prod(v.shape)) for v in (*self._stored.values(), *self._scales.values()))

    def scope(
        self, model: keras.Model, names: str | tuple[str, ...], token_ids: tf.Tensor | None = None
    ) -> keras.StatelessScope:
        """Inside this scope the model computes with the stored weights, and no Keras variable enters the graph.

        Args:
            model: the model they were taken from.
            names: what the names of the weights in use begin with.
            token_ids: int32 (batch, length). Where given, the token table is only the rows of these ids, in order:
                call the model with `consecutive_ids` of them. So only rows in use are widened, not the whole table.
        """
        scope = keras.StatelessScope()
        used = {name: v for name, v in model.named_weights().items() if name.startswith(names)}
        for name, variable in used.items():
            rows = tf.reshape(token_ids, [-1]) if name == _TOKEN_TABLE and token_ids is not None else None
            scope.add_update((variable, self._value(name, rows)))
        return scope

    def _value(self, name: str, rows: tf.Tensor | None = None) -> tf.Tensor:
        stored, scale = self._stored[name], self._scales.get(name)
        value = tf.convert_to_tensor(stored) if rows is None else tf.gather(stored, rows)
        value = tf.cast(value, tf.float32)
        if scale is None:
            return value
        return value * (scale if rows is None else tf.gather(scale, rows))


def consecutive_ids(token_ids: tf.Tensor) -> tf.Tensor:
    """0, 1, 2 ... in the shape of `token_ids`: the ids of the rows that `StoredWeights.scope` gathered."""
    return tf.reshape(tf.range(tf.size(token_ids)), tf.shape(token_ids))


def is_matrix(name: str, value: np.ndarray) -> bool:
    """Whether a weight is stored in fewer bits: no bias (of heads, those have two axes), position, or probe."""
    return value.ndim >= 2 and value.shape[0] > 1 and not name.endswith("bias")


def contracted_axes(name: str, rank: int) -> tuple[int, ...]:
    """Axes that the matrix product sums over; each position on the others is a channel with its own scale."""
    if name == _TOKEN_TABLE:
        return (1,)
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return (0,)
    return tuple(range(rank - 1))


def quantize(value: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and the float32 scale, one over `axes`, whose product is nearly `value`."""
    scale = np.abs(value).max(axis=axes, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return np.round(value / scale).astype(np.int8), scale


def cast_to_float16(value: np.ndarray, name: str) -> np.ndarray:
    """`value` in half precision.

    Raises:
        ValueError: a number that float16 cannot hold.
    """
    largest = np.abs(value).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise ValueError(f"{name} reaches {largest:.3g}, too large for float16. Export it in another precision.")
    return value.astype(np.float16)
