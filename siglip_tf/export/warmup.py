"""Requests that TensorFlow Serving plays on loading a version, so that the first user does not wait for tracing.

A record is a `tensorflow.serving.PredictionLog`, written field by field here, so that exporting needs no
`tensorflow-serving-api`. Source: tensorflow/serving `apis/prediction_log.proto`, `predict.proto`, `model.proto`.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

WARMUP_FILE = "tf_serving_warmup_requests"


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def prediction_log(model_name: str, signature: str, inputs: Mapping[str, np.ndarray | list]) -> bytes:
    """A serialized `PredictionLog` that asks `signature` of `model_name` with `inputs`."""
    model_spec = _field(1, model_name.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def write_warmup_requests(path: str, model_name: str, requests: Iterable[tuple[str, Mapping]]) -> int:
    """Writes `(signature, inputs)` pairs as TFRecords; returns how many. Serving reads at most 1,000."""
    count = 0
    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in requests:
            writer.write(prediction_log(model_name, signature, inputs))
            count += 1
    return count


def example_requests(image_size: int, signatures: Iterable[str], batch_sizes: Iterable[int] = (1, 2)) -> list:
    """`(signature, inputs)` for each signature and batch size, with a small drawn picture.

    All inputs of a request have the same first dimension. With `--enable_batching`, TensorFlow Serving sends warm-up
    requests through its batching session, which refuses anything else and then does not load the model.
    """
    ramp = np.linspace(0, 255, image_size).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    encoded = tf.io.encode_jpeg(picture).numpy()
    requests = []
    for n in batch_sizes:
        values = {
            "images": [encoded] * n,
            "pixels": np.stack([picture] * n),
            "texts": ["a photo", "a drawing"][:n],
            "labels": ["photo", "drawing"][:n],
            "templates": ["{}", "a photo of {}"][:n],
        }
        takes = {
            "embed_image": ["images"],
            "embed_image_pixels": ["pixels"],
            "embed_text": ["texts"],
            "score": ["images", "texts"],
            "classify": ["images", "labels"],
            "classify_with_templates": ["images", "labels", "templates"],
            "classify_bank": ["images"],
            "serving_default": ["images"],
        }
        requests += [(signature, {name: values[name] for name in takes[signature]}) for signature in signatures]
    return requests
