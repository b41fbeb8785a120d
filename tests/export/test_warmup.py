"""Warm-up records are what TensorFlow Serving reads: parsed by its own protos, and answered by the SavedModel."""

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from siglip_tf.export.warmup import WARMUP_FILE, prediction_log


def test_records_parse_and_are_answered(exported, signatures):
    path = f"{exported.path}/assets.extra/{WARMUP_FILE}"
    asked = []
    for record in tf.data.TFRecordDataset(path):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        name = request.model_spec.signature_name
        assert len({tensor.tensor_shape.dim[0].size for tensor in request.inputs.values()}) == 1, name
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        answer = signatures[name](**inputs)
        assert all(np.isfinite(v).all() for v in answer.values() if v.dtype == tf.float32)
        asked.append(name)
    assert set(asked) == set(exported.signatures)
    assert len(asked) == 2 * len(exported.signatures)  # one example and two


def test_nothing_is_lost_in_writing():
    values = {"a": np.arange(300, dtype=np.uint8).reshape(2, 150), "b": [b"\0" * 40_000, "ö".encode()]}
    log = prediction_log_pb2.PredictionLog.FromString(prediction_log("m" * 200, "s", values))
    request = log.predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("m" * 200, "s")
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["a"]), values["a"])
    assert list(request.inputs["b"].string_val) == values["b"]
    # Serialising the parsed message again gives the same bytes: no unknown or misplaced field.
    assert log.SerializeToString(deterministic=True) == prediction_log("m" * 200, "s", values)
