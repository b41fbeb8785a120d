"""Self-attention of rows, by one TPU kernel each way under TPUStrategy and by einsum elsewhere: the same function."""

import tensorflow as tf

from siglip_tf.primitives.tensorflow_internals import xla_custom_call

_TARGET = "tpu_custom_call"


def attention_of_rows(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, tokens: int, num_heads: int, fused: bool) -> tf.Tensor:
    """softmax(q k^T / sqrt(head size)) v for each example and head.

    Args:
        q: (batch * tokens, heads * head size), likewise `k` and `v`.
        tokens: tokens of an example.
        num_heads: heads, cut from the last axis in order.
        fused: under TPUStrategy, use the kernel of `attention_kernel`; needs jax installed and static shapes.

    Returns:
        (batch * tokens, heads * head size). Softmax is float32 whatever the dtype.

    Raises:
        ImportError: the kernel is to be used and jax is not installed.
    """
    if fused and isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return _fused(q, k, v, tokens, num_heads)
    split = (-1, tokens, num_heads, q.shape[1] // num_heads)
    q, k, v = (tf.reshape(t, split) for t in (q * tf.cast(split[-1] ** -0.5, q.dtype), k, v))
    logits = tf.einsum("bnhk,bmhk->bhnm", q, k)
    weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), v.dtype)
    return tf.reshape(tf.einsum("bhnm,bmhk->bnhk", weights, v), (-1, split[2] * split[3]))


def _fused(q, k, v, tokens, num_heads):
    try:
        from siglip_tf.primitives import attention_kernel
    except ImportError as error:
        raise ImportError(
            "Fused attention needs jax while a TPU's step is traced: pip install 'siglip-tf[tpu]' on a TPU host, "
            "'siglip-tf[compiler]' where there is none; or choose attention=\"einsum\"."
        ) from error
    shape = attention_kernel.Shape(q.shape[0], tokens, num_heads, q.shape[1] // num_heads, q.dtype.name)

    def kernel(direction, arguments, results):
        return xla_custom_call(arguments, _TARGET, attention_kernel.backend_config(shape, direction), [q] * results)

    @tf.custom_gradient
    def core(q, k, v):
        return kernel("forward", [q, k, v], 1)[0], lambda upstream: kernel("backward", [q, k, v, upstream], 3)

    return core(q, k, v)
