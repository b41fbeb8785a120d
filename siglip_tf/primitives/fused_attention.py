"""Self-attention of rows, by a fused kernel on TPUs and GPUs and by einsum otherwise. The function is the same."""

import tensorflow as tf

from siglip_tf.primitives import attention_cudnn
from siglip_tf.primitives.compilation import target_device
from siglip_tf.primitives.tensorflow_internals import xla_custom_call

_TARGET = "tpu_custom_call"


def attention_of_rows(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, tokens: int, num_heads: int, fused: bool) -> tf.Tensor:
    """Computes softmax(q k^T / sqrt(head size)) v for each example and head.

    Args:
        q: (batch * tokens, heads * head size).
        k: the same shape.
        v: the same shape.
        tokens: number of tokens of an example.
        num_heads: number of heads; the last axis holds them one after another.
        fused: use a fused kernel, which needs static shapes. Under TPUStrategy it is `attention_kernel`, which needs
            jax. If XLA compiles a step for a GPU, it is cuDNN's, if cuDNN supports the dtype and head size.

    Returns:
        (batch * tokens, heads * head size). Softmax is float32 for every dtype.

    Raises:
        ImportError: the TPU kernel is requested, but jax is not installed.
    """
    head_size = q.shape[1] // num_heads
    on_gpu = target_device() == "GPU"
    if fused and not on_gpu and isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return _by_tpu_kernel(q, k, v, tokens, num_heads)
    split = (-1, tokens, num_heads, head_size)
    if fused and on_gpu and attention_cudnn.supports(q.dtype, head_size) and q.shape.is_fully_defined():
        return tf.reshape(attention_cudnn.attention(*(tf.reshape(t, split) for t in (q, k, v))), q.shape)
    q, k, v = (tf.reshape(t, split) for t in (q * tf.cast(head_size**-0.5, q.dtype), k, v))
    logits = tf.einsum("bnhk,bmhk->bhnm", q, k)
    weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), v.dtype)
    return tf.reshape(tf.einsum("bhnm,bmhk->bnhk", weights, v), (-1, num_heads * head_size))


def _by_tpu_kernel(q, k, v, tokens, num_heads):
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
