"""A model server for exported SavedModels that speaks TensorFlow Serving's REST and gRPC.

Words that the files of this folder share:

- version: one numbered folder below a model's base path. The server loads new ones and unloads old ones by itself.
- signature: one function of a SavedModel, with named input and output tensors.
- row: one position on the first axis of a signature's merged input, such as one picture.
- merged input: the input along whose first axis requests may share a batch; each output has a row for each of its rows.

A request passes `rest.py` or `grpc_service.py`, which turn its body into arrays; `frontend.py`, which checks it and
finds the version; `batching.py`, which runs it together with others; and goes back the same way.
"""

from siglip_tf.serve.server import ModelServer
from siglip_tf.serve.settings import Limits, Settings

__all__ = ["Limits", "ModelServer", "Settings"]
