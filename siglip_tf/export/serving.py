"""The graph that is served: bytes and strings in, embeddings, logits and probabilities out."""

import functools

import keras
import tensorflow as tf

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.data.text.tokenizer import canonicalize_in_graph
from siglip_tf.export.weights import StoredWeights, consecutive_ids
from siglip_tf.primitives.normalization import l2_normalize

# Images of one request that are decoded at once: each may take max_pixels * 3 bytes.
_DECODED_AT_ONCE = 4
# Prompts of a label bank embedded at once while exporting.
_PROMPTS_AT_ONCE = 64

_function = functools.partial(tf.function, autograph=False)  # there is no Python control flow to convert

_BYTES = tf.TensorSpec([None], tf.string, name="images")
_PIXELS = tf.TensorSpec([None, None, None, 3], tf.uint8, name="pixels")
_TEXTS = tf.TensorSpec([None], tf.string, name="texts")
_LABELS = tf.TensorSpec([None], tf.string, name="labels")
_TEMPLATES = tf.TensorSpec([None], tf.string, name="templates")


class ServingGraph:
    """A model with its preprocessing in one graph, free of Keras once it is saved.

    Every function takes any number of images or texts, none included. Undecodable or oversized images and bad
    templates raise `tf.errors.InvalidArgumentError`. Save `resources` with `signatures()`: the functions are not the
    resources' own attributes, which SavedModel would store a second time.

    Args:
        model: a `SigLIP` with an image tower.
        preprocessing: what its checkpoint does to images and texts.
        weights: the model's stored weights.
        templates: prompts that `classify` puts labels into, each with one `{}`.
    """

    def __init__(
        self,
        model: keras.Model,
        preprocessing: Preprocessing,
        weights: StoredWeights,
        templates: tuple[str, ...] = ("{}",),
    ):
        self._model = model
        self._preprocessing = preprocessing
        self._weights = weights
        self._templates = tuple(templates)
        self._bank_labels: tuple[str, ...] = ()
        self._calibration = model.calibration
        self.resources = tf.Module(name="siglip")
        self.resources.weights = weights
        self.resources.tokenizer = preprocessing.text

    def add_bank(self, labels: tuple[str, ...]) -> None:
        """Embeds `labels` in the module's templates once, for `classify_bank`."""
        step = max(1, _PROMPTS_AT_ONCE // len(self._templates))
        templates = tf.constant(self._templates)
        parts = [self._classes(labels[start : start + step], templates) for start in range(0, len(labels), step)]
        self.resources.bank = tf.Variable(tf.concat(parts, axis=0), trainable=False, name="label_bank")
        self._bank_labels = tuple(labels)

    @_function(input_signature=[_BYTES])
    def embed_image(self, images):
        """JPEG, PNG, GIF, BMP or WebP bytes (n,) -> embedding (n, d) float32, l2-normalized."""
        return {"embedding": self._images(images)}

    @_function(input_signature=[_PIXELS])
    def embed_image_pixels(self, pixels):
        """uint8 (n, height, width, 3), resized as the checkpoint does -> embedding (n, d) float32, l2-normalized."""
        return {"embedding": self._pixels(pixels)}

    @_function(input_signature=[_TEXTS])
    def embed_text(self, texts):
        """UTF-8 strings (n,), taken as they are -> embedding (n, d) float32, l2-normalized."""
        return {"embedding": self._texts(texts)}

    @_function(input_signature=[_BYTES, _TEXTS])
    def score(self, images, texts):
        """Images (n,) x texts (m,) -> logits (n, m) and their sigmoid, probabilities (n, m)."""
        logits = self._logits(self._images(images), self._texts(texts))
        return {"logits": logits, "probabilities": tf.sigmoid(logits)}

    @_function(input_signature=[_BYTES, _LABELS])
    def classify(self, images, labels):
        """Images (n,), labels (m,) put into the exported templates -> see `_classification`."""
        return self._classification(self._images(images), self._classes(labels, tf.constant(self._templates)), labels)

    @_function(input_signature=[_BYTES, _LABELS, _TEMPLATES])
    def classify_with_templates(self, images, labels, templates):
        """`classify` with the caller's own templates (t,), at least one, each with one `{}`."""
        return self._classification(self._images(images), self._classes(labels, templates), labels)

    @_function(input_signature=[_BYTES])
    def classify_bank(self, images):
        """Images (n,) against the labels baked in: one image pass; adds the labels (n, m), best first."""
        labels = tf.constant(self._bank_labels)
        answer = self._classification(self._images(images), tf.convert_to_tensor(self.resources.bank), labels)
        return answer | {"ranked_labels": tf.gather(tf.constant(self._bank_labels), answer["ranking"])}

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Concrete functions by signature name; `serving_default` is `classify_bank` or else `embed_image`."""
        names = ["embed_image", "embed_image_pixels", "embed_text", "score", "classify", "classify_with_templates"]
        default = "embed_image"
        if self._bank_labels:
            names.append("classify_bank")
            default = "classify_bank"
        functions = {name: getattr(self, name).get_concrete_function() for name in names}
        return functions | {"serving_default": functions[default]}

    # Functions of their own, so that each tower is in the SavedModel once and not once for each signature.
    @_function(input_signature=[_BYTES])
    def _images(self, images):
        return self._resized_and_embedded(images)

    @_function(input_signature=[_PIXELS])
    def _pixels(self, pixels):
        check = tf.debugging.assert_positive(tf.shape(pixels)[1:3], "Expected pixels (n, height >= 1, width >= 1, 3).")
        with tf.control_dependencies([check]):
            return self._resized_and_embedded(tf.identity(pixels))

    @_function(input_signature=[_TEXTS])
    def _texts(self, texts):
        ids = self._preprocessing.text(texts)
        with self._weights.scope(self._model, "text/", ids):
            return self._model.encode_text(consecutive_ids(ids))

    def _resized_and_embedded(self, images: tf.Tensor) -> tf.Tensor:
        preprocess = self._preprocessing.image
        pixels = tf.map_fn(
            preprocess.pixels,
            images,
            parallel_iterations=_DECODED_AT_ONCE,
            fn_output_signature=preprocess.spec,
        )
        with self._weights.scope(self._model, "image/"):
            return self._model.encode_image(preprocess.normalize(pixels))

    @_function(input_signature=[_LABELS, _TEMPLATES])
    def _classes(self, labels, templates):
        """Labels (m,) in templates (t,) -> (m, d): the mean of the t unit vectors, normalized again."""
        halves = tf.strings.split(templates, "{}")
        checks = [
            tf.debugging.assert_equal(
                halves.row_lengths(), tf.constant(2, tf.int64), "A template needs exactly one {}."
            ),
            tf.debugging.assert_positive(tf.size(templates), "Expected at least one template."),
        ]
        with tf.control_dependencies(checks):
            halves = tf.reshape(halves.flat_values, [-1, 2])
        before, after = (tf.tile(halves[:, side], [tf.size(labels)]) for side in (0, 1))
        prompts = tf.strings.join([before, tf.repeat(labels, tf.size(templates)), after])
        embeddings = self._texts(canonicalize_in_graph(prompts))
        embeddings = tf.reshape(embeddings, [tf.size(labels), tf.size(templates), embeddings.shape[-1]])
        mean = tf.reduce_mean(embeddings, axis=1)
        return l2_normalize(mean)

    def _logits(self, images: tf.Tensor, texts: tf.Tensor) -> tf.Tensor:
        with self._weights.scope(self._model, ("log_temperature", "bias")):
            return self._model.logits(images, texts)

    def _classification(self, images: tf.Tensor, classes: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """All (n, m): logits; softmax over the labels; sigmoid of each by itself; ranking, label indices best first.

        A calibrated model (`tools.calibrate`) adds matches, bool: whether a probability reaches its label's threshold.
        """
        logits = self._logits(images, classes)
        answer = {
            "logits": logits,
            "softmax": tf.nn.softmax(logits, axis=-1),
            "probabilities": tf.sigmoid(logits),
            "ranking": tf.argsort(logits, axis=-1, direction="DESCENDING", stable=True),
        }
        if self._calibration is not None:
            answer["matches"] = answer["probabilities"] >= self._thresholds(labels)
        return answer

    def _thresholds(self, labels: tf.Tensor) -> tf.Tensor:
        """Probabilities (m,) from which labels count as matches: the common one where a label has none of its own."""
        thresholds = tf.fill(tf.shape(labels), tf.constant(self._calibration["threshold"], tf.float32))
        own = self._calibration.get("labels") or {}
        if not own:
            return thresholds
        same = labels[:, None] == tf.constant(list(own))
        values = tf.constant(list(own.values()), tf.float32)
        return tf.where(tf.reduce_any(same, 1), tf.reduce_max(tf.where(same, values, 0.0), 1), thresholds)
