"""cuDNN's fused attention by XLA's custom calls. It never writes a (tokens, tokens) matrix to memory.

XLA for GPUs recognizes the calls by their names and takes a description of the matrix products as JSON. Softmax and
sums are float32 inside, as in the einsum.
"""

import json

import tensorflow as tf

from siglip_tf.primitives.compilation import are_ampere_or_later
from siglip_tf.primitives.tensorflow_internals import xla_custom_call

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
_LARGEST_HEAD = 128  # The limit on every card from Ampere on.
_ELEMENT_TYPES = {"bfloat16": "BF16", "float16": "F16"}

# For each matrix product: the axis of each side that it sums over, and the batch axes of each side. Queries, keys,
# values, and the gradient of the output are (batch, tokens, heads, head size). Weights are (batch, heads, queries,
# keys).
_QUERY_BY_KEY = (3, 3, (0, 2), (0, 2))
_WEIGHTS_BY_VALUE = (3, 1, (0, 1), (0, 2))
_TURNED_WEIGHTS_BY_QUERY = (2, 1, (0, 1), (0, 2))
_PRODUCTS = {
    FORWARD: {"bmm1": _QUERY_BY_KEY, "bmm2": _WEIGHTS_BY_VALUE},
    BACKWARD: {
        "bmm1_grad_gemm1": _TURNED_WEIGHTS_BY_QUERY,
        "bmm1_grad_gemm2": _WEIGHTS_BY_VALUE,
        "bmm2_grad_gemm1": _TURNED_WEIGHTS_BY_QUERY,
        "bmm2_grad_gemm2": _QUERY_BY_KEY,
    },
}


def supports(dtype: tf.DType, head_size: int) -> bool:
    """Says whether cuDNN has the kernel: half precision, a head size that is a multiple of 8 up to 128, and Ampere."""
    known = dtype.name in _ELEMENT_TYPES and head_size % 8 == 0 and head_size <= _LARGEST_HEAD
    return known and are_ampere_or_later(tf.config.list_physical_devices("GPU"))


def attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """Computes softmax(q k^T / sqrt(head size)) v for each example and head, in a graph that XLA compiles for a GPU.

    Args:
        q: (batch, tokens, heads, head size), a static shape. `supports` says which dtypes and head sizes are possible.
        k: the same shape and dtype.
        v: the same shape and dtype.

    Returns:
        (batch, tokens, heads, head size), differentiable once.
    """
    batch, tokens, heads, head_size = q.shape
    config = {target: _config(q.shape, q.dtype, products) for target, products in _PRODUCTS.items()}
    by_head = tf.TensorSpec((batch, heads, tokens, head_size), q.dtype)
    statistics = tf.TensorSpec((batch, heads, tokens), tf.float32)  # The log-sum-exp of each query.
    workspace = tf.TensorSpec((0,), tf.uint8)  # XLA makes it as large as cuDNN needs.

    @tf.custom_gradient
    def core(q, k, v):
        y, log_sums, _ = xla_custom_call([q, k, v], FORWARD, config[FORWARD], [by_head, statistics, workspace])
        # This transpose moves no data: XLA chooses the layout of the call's results to suit their consumers.
        y = tf.transpose(y, (0, 2, 1, 3))

        def gradient(upstream):
            arguments = [q, k, v, log_sums, upstream, y]
            *gradients, _ = xla_custom_call(arguments, BACKWARD, config[BACKWARD], [by_head] * 3 + [workspace])
            return [tf.transpose(t, (0, 2, 1, 3)) for t in gradients]

        return y, gradient

    return core(q, k, v)


def _config(shape, dtype, products):
    batch, tokens, heads, head_size = shape

    def numbers(left, right, left_batch, right_batch):
        return {
            "lhs_contracting_dimensions": [str(left)],
            "rhs_contracting_dimensions": [str(right)],
            "lhs_batch_dimensions": [str(axis) for axis in left_batch],
            "rhs_batch_dimensions": [str(axis) for axis in right_batch],
        }

    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": head_size**-0.5,
        "intermediate_tensor_shape": {
            "element_type": _ELEMENT_TYPES[dtype.name],
            "dimensions": [str(size) for size in (batch, heads, tokens, tokens)],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "NO_MASK",
        "max_seg_per_batch": 1,
        **{f"{name}_dot_dimension_numbers": numbers(*axes) for name, axes in products.items()},
    }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention})
