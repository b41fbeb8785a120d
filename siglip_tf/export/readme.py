"""The README that stands beside the version folders: how to start a server, ask it, and read its scores."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

_TEXT = """\
# {name}

Version {version}, written by siglip_tf. Image-text model: {images}, texts {text_length} tokens,
embeddings of {embed_dim} numbers, weights {precision} ({megabytes:.0f} MB). Preprocessing and tokenization are in the
graph: send the bytes of image files and plain strings.

## Start a server

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD":/models/{name} -e MODEL_NAME={name} tensorflow/serving

or, where `tensorflow_model_server` is installed:

    tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name={name} --model_base_path="$PWD"

The server must be of TensorFlow 2.20 or newer; the graph was written by {tensorflow}. It holds tensorflow-text's
SentencePiece ops, which the stock server links in. The server loads newer versions in this folder by itself. It first
plays the warm-up requests in `assets.extra/` (`--enable_model_warmup`, on by default). Use
`--rest_api_timeout_in_ms=30000` if one request carries many images.

`--enable_batching` merges concurrent requests along the first axis. It helps `embed_image`, `embed_text`,
`embed_image_pixels`, and `classify_bank`. The server then refuses requests whose inputs have different lengths, and
most `score` and `classify` requests are of that kind: serve those without `--enable_batching`, or embed on the server
and compare on the client.

## Signatures

Any number of images and texts per request, none included.

| signature | inputs | outputs |
|---|---|---|
| `embed_image` | `images` (n,) bytes of JPEG, PNG, GIF, BMP, WebP | `embedding` (n, {embed_dim}), l2-normalized |
| `embed_image_pixels` | `pixels` (n, height, width, 3) uint8 | `embedding` (n, {embed_dim}) |
| `embed_text` | `texts` (m,) strings | `embedding` (m, {embed_dim}) |
| `score` | `images` (n,), `texts` (m,) | `logits`, `probabilities` (n, m) |
| `classify` | `images` (n,), `labels` (m,) | `logits`, `softmax`, `probabilities`, `ranking` (n, m) |
| `classify_with_templates` | the same and `templates` (t,), each with one `{{}}` | the same |
{bank_row}
`serving_default` is `{default}`. `classify` puts each label into {templates},
canonicalised (lower case, no punctuation).

## Ask

    IMAGE=$(base64 -w0 cat.jpg)  # goes through a pipe below: a command line holds 128 KiB at most

    echo '{{"signature_name": "classify", "inputs": {{"images": [{{"b64": "'$IMAGE'"}}],
      "labels": ["a cat", "a dog", "a boat"]}}}}' | curl -s localhost:8501/v1/models/{name}:predict -d @-

    echo '{{"signature_name": "score", "inputs": {{"images": [{{"b64": "'$IMAGE'"}}],
      "texts": ["a cat asleep on a sofa"]}}}}' | curl -s localhost:8501/v1/models/{name}:predict -d @-

    curl -s localhost:8501/v1/models/{name}:predict -d '{{"signature_name": "embed_text",
      "inputs": {{"texts": ["a cat"]}}}}'

gRPC, with `pip install tensorflow-serving-api`:

    import grpc, tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "{name}", "score"
    request.inputs["images"].CopyFrom(tf.make_tensor_proto([open("cat.jpg", "rb").read()]))
    request.inputs["texts"].CopyFrom(tf.make_tensor_proto(["a cat asleep on a sofa"]))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel("localhost:8500"))
    print(tf.make_ndarray(stub.Predict(request, 30).outputs["probabilities"]))

In Python, without a server (the import of tensorflow_text registers the tokenizer's ops):

    import tensorflow as tf, tensorflow_text
    model = tf.saved_model.load("{version}")
    model.signatures["score"](images=tf.constant([open("cat.jpg", "rb").read()]), texts=tf.constant(["a cat"]))

## Read the scores

`logits` are t * cosine + b with t = {temperature:.2f}, b = {bias}.
{reading}

An image that cannot be decoded, or that has more than the exported limit of pixels, is an INVALID_ARGUMENT error.
"""

_SIGMOID = """\
`probabilities` are their sigmoid: for each pair alone, how likely image and text belong together, as in training, where
one text of a whole batch matches an image. They are absolute, do not sum to one, and are often small even for the right
text: 0.05 against 0.0001 is a clear answer. Ranks and ratios say which text fits best; `softmax` (of `classify`) says
it as shares that sum to one over the labels given, whether or not any of them fits. To decide *whether* a text fits,
set a threshold on your own data."""

_SOFTMAX = """\
This model was trained with the softmax loss, which gives logits no absolute level: use ranks and `softmax`, and leave
`probabilities` (the sigmoid of the logits) alone."""

_MATCHES = """

`matches` (of `classify` and its kin) says yes or no: whether a probability reaches the threshold that
`python -m tools.calibrate` fitted on a labeled sample, the label's own where it has one."""

_BANK_ROW = (
    "| `classify_bank` | `images` (n,) | those of `classify` and `ranked_labels`, for {count} labels baked in |\n"
)


def _images(model: keras.Model) -> str:
    if model.max_patches is not None:
        side = model.image.patch_size
        return f"images of any shape, resized to at most {model.max_patches} patches of {side} x {side} pixels"
    return f"images {' x '.join(str(side) for side in model.image_size)} pixels"


def readme(
    model: keras.Model, export, *, model_name: str, precision: str, labels: Sequence[str], templates: Sequence[str]
) -> str:
    """Markdown text for the export's base folder."""
    shown = ", ".join(f"`{template}`" for template in templates[:3]) + (", ..." if len(templates) > 3 else "")
    bias = None if model.bias is None else float(np.asarray(model.bias))
    return _TEXT.format(
        name=model_name,
        version=export.version,
        tensorflow=tf.__version__,
        images=_images(model),
        text_length=model.text_length,
        embed_dim=model.embed_dim,
        precision=precision,
        megabytes=export.weight_bytes / 1e6,
        bank_row=_BANK_ROW.format(count=len(labels)) if labels else "",
        default="classify_bank" if labels else "embed_image",
        templates=shown,
        temperature=float(np.exp(np.asarray(model.log_temperature))),
        bias="0 (none)" if bias is None else f"{bias:.2f}",
        reading=(_SOFTMAX if bias is None else _SIGMOID) + ("" if model.calibration is None else _MATCHES),
    )
