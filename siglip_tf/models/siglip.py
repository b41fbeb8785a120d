"""The two-tower model: an image and a text tower, a temperature and a bias, trained by the pairwise sigmoid loss."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.losses import Negatives
from siglip_tf.losses.inputs import check_tile_size
from siglip_tf.models import batch as batch_checks
from siglip_tf.models.image_tower import ImageTower
from siglip_tf.models.pretrained import PretrainedMixin
from siglip_tf.models.step import StepMixin
from siglip_tf.models.text_tower import TextTower
from siglip_tf.models.variants import image_tower_size, tower_size

LOSSES = ("sigmoid", "softmax")


@keras.saving.register_keras_serializable(package="siglip_tf")
class SigLIP(StepMixin, PretrainedMixin, keras.Model):
    """Image and text towers in one embedding space (SigLIP, SigLiT, and their softmax baseline).

    A normal Keras model whose weights exist from the start: `compile(optimizer)`, `fit(dataset)`, `save`, `summary`,
    callbacks and dtype policies work as usual. Data sets yield dicts with "text", int32 (batch, text_length), and
    "image", uint8 pixels or floats in [-1, 1] (batch, height, width, 3), or "image_embedding", (batch, embed_dim) of a
    frozen tower; other keys are ignored. `fit` reports loss, temperature, bias, mean logits of positive and negative
    pairs, and the norms of gradient, parameters and update, all of the global batch on every replica.

    Args:
        image: size and patch of the image tower, such as "B/16", or a size with `patch_size`; None for no image
            tower: training on stored image embeddings of `embed_dim` (SigLiT).
        text: size of the text tower, such as "B".
        image_size: pixels of a side, or (height, width).
        text_length: tokens of a text.
        vocab_size: number of token ids.
        embed_dim: size of the embeddings; by default the image tower's width. Another one needs `image=None`.
        patch_size, image_width, image_depth, image_mlp_dim, image_heads: replace parts of `image`.
        image_pool: "map", "gap" or "tok".
        text_width, text_depth, text_mlp_dim, text_heads: replace parts of `text`.
        text_head: False for a text tower without a last projection, whose width then is `embed_dim`.
        token_bottleneck: K of a bottlenecked token embedding (section 4.3); None for the whole table.
        dropout: rate of dropped units in both towers while training.
        stochastic_depth: rate of dropped branches of the deepest blocks while training.
        remat: what blocks compute again in the backward pass: "none", "selective", "attention" or "block" (all of it);
            see `Encoder`.
        attention: "einsum", or "fused": the same maths, on TPU by one kernel that keeps the (tokens, tokens) weights
            out of memory. Tracing for a TPU then needs jax.
        scan_layers: one loop over a tower's blocks while training in place of unrolled copies: the same numbers, and
            minutes less for a TPU's compiler. Needs a remat policy.
        microbatch_size: examples that pass through the towers at a time; the gradient stays that of the whole batch.
        loss: "sigmoid", or "softmax" for the paper's baseline.
        init_temperature: initial temperature exp(t'); the paper's is 10.
        init_bias: initial bias b; the paper's is -10. None for no bias (Table 4, first row).
        negatives: which negatives count (section 4.8), as {"keep": "random" | "hardest" | "easiest", "ratio": ...}.
        tile_size: rows and columns of the largest matrix of logits; None chooses.
        tower_norms: whether `fit` also reports norms of each tower.
        seed: of dropout and of random negatives.

    Example:

    ```python
    model = siglip_tf.SigLIP(image="B/16", text="B", image_size=224, text_length=64, vocab_size=32_000)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4, beta_2=0.95))
    model.fit(dataset)
    ```

    Raises:
        ValueError: for sizes that are unknown or do not fit each other.

    Source: "Sigmoid Loss for Language Image Pre-Training", https://arxiv.org/abs/2303.15343
    """

    def __init__(
        self,
        image: str | None = "B/16",
        text: str = "B",
        image_size: int | tuple[int, int] = 224,
        text_length: int = 64,
        vocab_size: int = 32_000,
        embed_dim: int | None = None,
        *,
        patch_size: int | None = None,
        image_width: int | None = None,
        image_depth: int | None = None,
        image_mlp_dim: int | None = None,
        image_heads: int | None = None,
        image_pool: str = "map",
        text_width: int | None = None,
        text_depth: int | None = None,
        text_mlp_dim: int | None = None,
        text_heads: int | None = None,
        text_head: bool = True,
        token_bottleneck: int | None = None,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        remat: str = "none",
        attention: str = "einsum",
        scan_layers: bool = False,
        microbatch_size: int | None = None,
        loss: str = "sigmoid",
        init_temperature: float = 10.0,
        init_bias: float | None = -10.0,
        negatives: dict[str, Any] | None = None,
        tile_size: int | None = None,
        tower_norms: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(**kwargs)
        self._arguments = arguments
        _check_positive(text_length=text_length, vocab_size=vocab_size)
        _check_positive(embed_dim=embed_dim, token_bottleneck=token_bottleneck, microbatch_size=microbatch_size)
        check_tile_size(tile_size)
        if loss not in LOSSES:
            raise ValueError(f"Expected loss to be one of {', '.join(LOSSES)}. Received: {loss!r}.")
        if not init_temperature > 0:
            raise ValueError(f"Expected a positive init_temperature. Received: {init_temperature!r}.")
        if negatives is not None:
            Negatives(**negatives)
            if loss != "sigmoid":
                raise ValueError(f"Expected loss='sigmoid' with masked negatives. Received: loss={loss!r}.")

        self.image_size = batch_checks.as_image_size(image_size)
        self.text_length, self.vocab_size = text_length, vocab_size
        self.loss_name, self.negatives, self.tile_size = loss, negatives, tile_size
        self.microbatch_size, self.tower_norms, self.seed = microbatch_size, tower_norms, seed
        self.preprocessing = None
        regularisation = {"dropout": dropout, "stochastic_depth": stochastic_depth, "remat": remat}
        regularisation |= {"attention": attention, "scan_layers": scan_layers}
        regularisation["dtype"] = self.dtype_policy

        self.image = None
        if image is not None:
            size, patch = image_tower_size(
                image, patch_size, width=image_width, depth=image_depth, mlp_dim=image_mlp_dim, num_heads=image_heads
            )
            if embed_dim not in (None, size.width):
                raise ValueError(
                    f"Expected embed_dim to be the width of the image tower, {size.width}: there is no projection. "
                    f"Received: embed_dim={embed_dim}."
                )
            embed_dim = size.width
            self.image = ImageTower(size, patch, self.image_size, image_pool, name="image", **regularisation)
            self.image.build()
        elif embed_dim is None:
            raise ValueError("Expected embed_dim with image=None: the size of the stored image embeddings.")
        self.embed_dim = embed_dim

        size = tower_size(text, width=text_width, depth=text_depth, mlp_dim=text_mlp_dim, num_heads=text_heads)
        if not text_head and size.width != embed_dim:
            raise ValueError(
                f"Expected a text tower of the width {embed_dim} where it has no head. Received: width {size.width}."
            )
        self.text = TextTower(
            size,
            vocab_size,
            text_length,
            embed_dim if text_head else None,
            token_bottleneck,
            name="text",
            **regularisation,
        )
        self.text.build()
        # Temperature and bias stay float32 under every dtype policy (bfloat16 has two digits).
        self.log_temperature = self._add_scalar("log_temperature", math.log(init_temperature))
        self.bias = None
        if init_bias is not None and loss == "sigmoid":
            self.bias = self._add_scalar("bias", init_bias)
        self._make_trackers()
        self.built = True

    def _add_scalar(self, name, value):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(shape=(), initializer=initializer, dtype="float32", autocast=False, name=name)

    def encode_image(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Image embeddings.

        Args:
            images: float32 (batch, height, width, 3) in [-1, 1].
            training: whether dropout is active.

        Returns:
            (batch, embed_dim) float32, l2-normalised.

        Raises:
            ValueError: for another rank, dtype or size, unnormalised pixels, or a model without an image tower.
        """
        return self._encode("image", images, training)

    def encode_text(self, token_ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Text embeddings.

        Args:
            token_ids: int32 (batch, text_length).
            training: whether dropout is active.

        Returns:
            (batch, embed_dim) float32, l2-normalised.

        Raises:
            ValueError: for another rank, dtype or length; in eager mode also for an id outside the vocabulary.
        """
        return self._encode("text", token_ids, training)

    def _encode(self, side, value, training=True):
        if side == "image_embedding":
            return _normalize(batch_checks.check_image_embeddings(value, self.embed_dim))
        if side == "text":
            ids = batch_checks.check_token_ids(value, self.text_length, self.vocab_size)
            return _normalize(self.text(ids, training=training))
        if self.image is None:
            raise ValueError("Expected 'image_embedding': this model has no image tower. Received: images.")
        return _normalize(self.image(batch_checks.check_images(value, self.image_size), training=training))

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Embeddings of what `inputs` holds.

        Args:
            inputs: any of "image", "image_embedding" and "text".
            training: whether dropout is active.

        Returns:
            "image_embedding" and/or "text_embedding", (batch, embed_dim) float32, l2-normalised.
        """
        outputs = {}
        for side in ("image", "image_embedding", "text"):
            if side in inputs:
                outputs["text_embedding" if side == "text" else "image_embedding"] = self._encode(
                    side, inputs[side], training
                )
        if not outputs:
            raise ValueError(f"Expected 'image', 'image_embedding' or 'text'. Received: keys {sorted(inputs)}.")
        return outputs

    def logits(self, image_embeddings: tf.Tensor, text_embeddings: tf.Tensor) -> tf.Tensor:
        """t * x.y + b of every image with every text; their sigmoid is the probability that the two belong together.

        These probabilities are absolute and often small, also for the best text: compare them, or rank them.

        Args:
            image_embeddings: (images, embed_dim), l2-normalised.
            text_embeddings: (texts, embed_dim), l2-normalised.

        Returns:
            (images, texts) float32.
        """
        logits = tf.exp(self.log_temperature) * tf.matmul(image_embeddings, text_embeddings, transpose_b=True)
        return logits if self.bias is None else logits + self.bias

    def named_weights(self) -> dict[str, keras.Variable]:
        """Canonical weight name -> variable, in a fixed order; see `siglip_tf.checkpoints`."""
        layers = [layer for layer in (self.image, self.text) if layer is not None]
        named = {v.path: v for layer in layers for v in layer.weights if "seed_generator" not in v.path}
        scalars = {"log_temperature": self.log_temperature, "bias": self.bias}
        return named | {name: v for name, v in scalars.items() if v is not None}

    def assign_weights(self, weights: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> None:
        """Assigns arrays by canonical name.

        Raises:
            ValueError: unless names and shapes are exactly those of the model; then nothing is assigned.
        """
        weights = dict(weights)
        own = self.named_weights()
        wrong = [f"{name}: missing" for name in own if name not in weights]
        wrong += [f"{name}: unexpected" for name in weights if name not in own]
        wrong += [
            f"{name}: expected {tuple(v.shape)}, received {np.shape(weights[name])}"
            for name, v in own.items()
            if name in weights and tuple(v.shape) != np.shape(weights[name])
        ]
        if wrong:
            shown = "\n  ".join(wrong[:20] + [f"... and {len(wrong) - 20} more"] * (len(wrong) > 20))
            raise ValueError(f"Expected the weights of this model. Received:\n  {shown}")
        for name, variable in own.items():
            variable.assign(weights[name])

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": keras.saving.serialize_keras_object(self.dtype_policy), **self._arguments}

    @classmethod
    def from_config(cls, config):
        dtype = config.get("dtype")
        if isinstance(dtype, dict):
            config = {**config, "dtype": keras.saving.deserialize_keras_object(dtype)}
        return cls(**config)


def _normalize(x):
    """x / |x| in float32; the reference's 1e-8 in the denominator keeps a zero vector finite."""
    x = tf.cast(x, tf.float32)
    return x / (tf.norm(x, axis=-1, keepdims=True) + 1e-8)


def _check_positive(**values):
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"Expected {name} to be a positive integer. Received: {value!r}.")
