"""One version in memory: its signatures, and what GetModelMetadata says of them."""

import gc
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from siglip_tf.serve.signature import Signature, signatures_of
from siglip_tf.storage import read_file

_WARMUP = "assets.extra/tf_serving_warmup_requests"
_TAG = "serve"


class LoadedModel:
    """A SavedModel that was loaded and has answered its warm-up requests.

    Args:
        path: the version's folder.

    Attributes:
        signatures: by name.
        definitions: name -> `SignatureDef`, as TensorFlow Serving reports them.

    Raises:
        ValueError: the SavedModel has no signatures for serving, or its warm-up requests cannot be read.
        Exception: whatever TensorFlow raises for a SavedModel that it cannot load.
    """

    def __init__(self, path: str):
        import tensorflow_text  # noqa: F401 - registers the tokenizer's ops

        self.definitions = _definitions(path)
        self._loaded = tf.saved_model.load(path, tags=[_TAG])  # signatures live as long as what was loaded
        self.signatures: Mapping[str, Signature] = signatures_of(self._loaded)
        if not self.signatures:
            raise ValueError(f"{path} has no signatures.")
        self._warm_up(path)

    def unload(self) -> None:
        """Frees the memory, if nobody else holds on to the signatures."""
        self.signatures = {}
        self._loaded = None
        gc.collect()  # functions and what they captured refer to each other

    def _warm_up(self, path: str) -> None:
        """Plays the requests that the export wrote for TensorFlow Serving, so that no user waits for the first run."""
        from tensorflow_serving.apis import prediction_log_pb2

        if not tf.io.gfile.exists(f"{path}/{_WARMUP}"):
            return
        for record in tf.data.TFRecordDataset(f"{path}/{_WARMUP}").as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            name = request.model_spec.signature_name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
            if name in self.signatures:
                inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
                self.signatures[name].run(inputs)


def _definitions(path: str) -> dict[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel.FromString(read_file(f"{path}/saved_model.pb"))
    for meta_graph in saved.meta_graphs:
        if _TAG in meta_graph.meta_info_def.tags:
            return dict(meta_graph.signature_def.items())
    raise ValueError(f"{path} has no graph with the tag {_TAG!r}.")
