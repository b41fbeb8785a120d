"""The two-tower model: an image tower, a text tower, a temperature, and a bias, trained with the sigmoid loss."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from siglip_tf import checkpoints
from siglip_tf.checkpoints import Checkpoint
from siglip_tf.distribution import Ring, current_ring
from siglip_tf.losses import (
    LossResult,
    Negatives,
    check_choices,
    check_precision,
    check_tile_size,
    pair_labels,
    sigmoid_loss_and_gradients,
    softmax_loss_and_gradients,
)
from siglip_tf.models import batch as batch_checks
from siglip_tf.models import fine_tuning, fit_data, lora, metrics, pretrained
from siglip_tf.models import optimizer as optimizers
from siglip_tf.models.microbatch import microbatched, whole_batch
from siglip_tf.models.naflex import image_tower, patches_of
from siglip_tf.models.text_tower import TextTower
from siglip_tf.models.trainability import restore_trainability, trainability
from siglip_tf.models.variants import image_tower_size, tower_size
from siglip_tf.primitives.compilation import compiling_for, target_device
from siglip_tf.primitives.dropout import RandomState
from siglip_tf.primitives.hashing import hash_bits
from siglip_tf.primitives.normalization import l2_normalize
from siglip_tf.primitives.stacking import sums_of_squares

LOSSES = ("sigmoid", "softmax")
_TEST_METRICS = ("loss", "positive_logit", "negative_logit")
_CAPTIONS = 1  # distinguishes the random bits for captions from other random bits of a step


@keras.saving.register_keras_serializable(package="siglip_tf")
class SigLIP(keras.Model):
    """Image and text towers in one embedding space (SigLIP, SigLiT, and their softmax baseline).

    This is a normal Keras model, whose weights are created by the constructor. `compile(optimizer)`, `fit(dataset)`,
    `save`, `summary`, callbacks, and dtype policies work as usual. Data sets yield dicts with "text" and either "image"
    or "image_embedding":

    - "text": int32 (batch, text_length), or (batch, captions, text_length). With several captions, every training step
      draws one caption per image, and evaluation uses the first one.
    - "image": uint8 pixels (batch, height, width, 3), or floats in [-1, 1].
    - "image_embedding": (batch, embed_dim), stored embeddings of a frozen tower.
    - "group", optional: integers (batch,), at least 0. `same_group` says how the loss treats pairs of the same group
      anywhere in the global batch.

    Other keys are ignored. `fit` reports the loss, the temperature, the bias, the mean logits of positive and negative
    pairs, and the norms of the gradient, the parameters, and the update. All of them are for the global batch, on every
    replica. Callbacks receive the values of each step at the end of a batch, and means at the end of an epoch.

    Weights are float32, so the dtype policies for training are float32, mixed_bfloat16, and mixed_float16. A `.keras`
    file also stores which weights are frozen, the adapters, and the optimizer's state.

    Args:
        image: size and patch size of the image tower, such as "B/16", or a size if `patch_size` is given. None means no
            image tower, for training on stored image embeddings of size `embed_dim` (SigLiT).
        text: size of the text tower, such as "B".
        image_size: height and width in pixels: one integer for a square, or (height, width).
        text_length: number of tokens per text.
        vocab_size: number of token ids.
        embed_dim: size of the embeddings. The default is the image tower's width. Any other value needs `image=None`.
        patch_size, image_width, image_depth, image_mlp_dim, image_heads: values that replace parts of `image`.
        image_pool: "map", "gap", or "tok".
        max_patches: if given, the image tower is a NaFlex tower (SigLIP 2), which accepts pictures of any shape as this
            many patches, including padding. Then `image_size` is the side of the square that the learned positions
            cover. A NaFlex tower cannot be trained.
        text_width, text_depth, text_mlp_dim, text_heads: values that replace parts of `text`.
        text_head: whether the text tower ends with a projection. If False, its width must be `embed_dim`.
        token_bottleneck: K of a bottlenecked token embedding (section 4.3), or None for a full table.
        dropout: rate of dropped units in both towers during training.
        stochastic_depth: rate of dropped branches of the deepest blocks during training.
        remat: "none", or "block" to keep only the input of every block for the backward pass and compute the block
            again. See `Encoder`.
        attention: "einsum" or "fused". Both compute the same function. "fused" uses one kernel on TPUs, and in steps
            that XLA compiles for GPUs, which avoids storing the (tokens, tokens) weights. Tracing for a TPU then needs
            jax.
        scan_layers: whether training runs a tower's blocks in a loop instead of unrolled copies. The results are the
            same, and a TPU's compiler needs minutes less. It needs remat="block".
        microbatch_size: number of examples that pass through the towers at a time. The gradient is still that of the
            whole batch.
        loss: "sigmoid", or "softmax" for the paper's baseline.
        init_temperature: initial temperature exp(t'). The paper uses 10.
        init_bias: initial bias b. The paper uses -10. None means no bias (Table 4, first row).
        negatives: which negatives count (section 4.8), as {"keep": "random" | "hardest" | "easiest", "ratio": ...}.
        same_group: how the loss treats pairs with the same "group": "positive", "ignore" (left out of the loss), or
            "negative".
        equal_captions: how the loss treats pairs with equal token ids: "negative", "ignore", or "positive". If it
            differs from `same_group`, the pair is a positive. `fit` then reports how many pairs are positive or
            ignored.
        loss_precision: the precision of the loss' matrix products: "float32" or "bfloat16" (rounded inputs, sums in
            float32). See docs/gpu.md.
        tile_size: rows and columns of the largest matrix of logits, or None to choose it automatically.
        tower_norms: whether `fit` also reports the norms of each tower.
        seed: the seed of dropout and of random negatives.

    Example:

    ```python
    model = siglip_tf.SigLIP(image="B/16", text="B", image_size=224, text_length=64, vocab_size=32_000)
    model.compile(optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4, beta_2=0.95))
    model.fit(dataset)
    ```

    Raises:
        ValueError: if an argument is invalid, or sizes do not fit each other.

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
        max_patches: int | None = None,
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
        same_group: str = "positive",
        equal_captions: str = "negative",
        loss_precision: str = "float32",
        tile_size: int | None = None,
        tower_norms: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        super().__init__(**kwargs)
        self._arguments = arguments
        _check_positive(text_length=text_length, vocab_size=vocab_size, max_patches=max_patches)
        _check_positive(embed_dim=embed_dim, token_bottleneck=token_bottleneck, microbatch_size=microbatch_size)
        check_tile_size(tile_size)
        check_choices(same_group=same_group, equal_captions=equal_captions)
        check_precision(loss_precision)
        if loss not in LOSSES:
            raise ValueError(f"Expected loss to be one of {', '.join(LOSSES)}. Received: {loss!r}.")
        if not init_temperature > 0:
            raise ValueError(f"Expected a positive init_temperature. Received: {init_temperature!r}.")
        if negatives is not None:
            Negatives(**negatives)
            if loss != "sigmoid":
                raise ValueError(f"Expected loss='sigmoid' with masked negatives. Received: loss={loss!r}.")

        self.image_size = batch_checks.as_image_size(image_size)
        self.text_length, self.vocab_size, self.max_patches = text_length, vocab_size, max_patches
        self.loss_name, self.negatives, self.tile_size = loss, negatives, tile_size
        self.same_group, self.equal_captions, self.loss_precision = same_group, equal_captions, loss_precision
        self.microbatch_size, self.tower_norms, self.seed = microbatch_size, tower_norms, seed
        self.preprocessing, self.calibration = None, None
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
            self.image = image_tower(size, patch, self.image_size, image_pool, max_patches, regularisation)
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
        # Temperature and bias are float32 under every dtype policy, because bfloat16 has only two digits.
        self.log_temperature = self._add_scalar("log_temperature", math.log(init_temperature))
        self.bias = None
        if init_bias is not None and loss == "sigmoid":
            self.bias = self._add_scalar("bias", init_bias)
        self._test_trackers = [keras.metrics.Mean(name=name) for name in _TEST_METRICS]
        self._step_means = metrics.StepMeans()
        # The batch size of a replica in `fit` and in `evaluate`, if it is known.
        self._train_examples: int | None = None
        self._test_examples: int | None = None
        self.built = True

    def _add_scalar(self, name, value):
        initializer = keras.initializers.Constant(value)
        return self.add_weight(shape=(), initializer=initializer, dtype="float32", autocast=False, name=name)

    def encode_image(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds images.

        Args:
            images: (batch, height, width, 3), floats in [-1, 1] or uint8 pixels. For a NaFlex model, batched results of
                `siglip_tf.data.NaFlexPreprocessing`, or a list of pictures of any size (encoded bytes or uint8
                (height, width, 3)), to which the model applies its preprocessing.
            training: whether dropout is active.

        Returns:
            l2-normalized embeddings, float32 (batch, embed_dim).

        Raises:
            ValueError: if the rank, dtype, or size is wrong, pixels are not normalized, or there is no image tower.
        """
        return self._encode("image", images, training)

    def encode_text(self, token_ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds texts.

        Args:
            token_ids: int32 (batch, text_length).
            training: whether dropout is active.

        Returns:
            l2-normalized embeddings, float32 (batch, embed_dim).

        Raises:
            ValueError: if the rank, dtype, or length is wrong, or, in eager mode, if an id is outside the vocabulary.
        """
        return self._encode("text", token_ids, training)

    def _encode(self, side, value, training=True):
        if side == "image_embedding":
            return l2_normalize(batch_checks.check_image_embeddings(value, self.embed_dim))
        if side == "text":
            ids = batch_checks.check_token_ids(value, self.text_length, self.vocab_size)
            return l2_normalize(self.text(ids, training=training))
        if self.image is None:
            raise ValueError("Expected 'image_embedding': this model has no image tower. Received: images.")
        if self.max_patches is not None:
            return l2_normalize(self.image(patches_of(value, self), training=training))
        return l2_normalize(self.image(batch_checks.check_images(value, self.image_size), training=training))

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds the inputs.

        Args:
            inputs: a dict with any of "image", "image_embedding", and "text".
            training: whether dropout is active.

        Returns:
            A dict with "image_embedding", "text_embedding", or both: l2-normalized embeddings, float32
            (batch, embed_dim).

        Raises:
            ValueError: if `inputs` has none of the keys.
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
        """Returns t * x.y + b for every image and every text. The sigmoid of a logit is the probability of a match.

        These probabilities are absolute. They are often small, even for the best text, so compare or rank them.

        Args:
            image_embeddings: (images, embed_dim), l2-normalized.
            text_embeddings: (texts, embed_dim), l2-normalized.

        Returns:
            Logits, float32 (images, texts).
        """
        logits = tf.exp(self.log_temperature) * tf.matmul(image_embeddings, text_embeddings, transpose_b=True)
        return logits if self.bias is None else logits + self.bias

    def named_weights(self) -> dict[str, keras.Variable]:
        """Returns the variables by canonical name, in a fixed order, without adapters. See `siglip_tf.checkpoints`."""
        layers = [layer for layer in (self.image, self.text) if layer is not None]
        left_out = ("seed_generator", "lora_kernel")
        named = {v.path: v for tower in layers for v in tower.weights if not any(part in v.path for part in left_out)}
        scalars = {"log_temperature": self.log_temperature, "bias": self.bias}
        return named | {name: v for name, v in scalars.items() if v is not None}

    def assign_weights(self, weights: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> None:
        """Assigns arrays by canonical name.

        Raises:
            ValueError: if names and shapes are not exactly those of the model. Then nothing is assigned.
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

    # Training: what `fit` and `evaluate` run on each replica.

    def compile(self, optimizer="adamw", jit_compile="auto", steps_per_execution=1, **kwargs):
        """Does the same as `keras.Model.compile`, with the model's own loss.

        Args:
            optimizer: a Keras optimizer that is created under the same strategy as the model, or its name.
            jit_compile: "auto" compiles with XLA on a single GPU. Under a strategy, TensorFlow cannot compile a step
                alone (a TPU always compiles it), and on a CPU it has no advantage.
            steps_per_execution: number of steps that run in one call.
            **kwargs: `run_eagerly`, `auto_scale_loss`.

        Raises:
            ValueError: if there is a loss or a metric, or an option of the optimizer is wrong for a contrastive loss.
        """
        if self.max_patches is not None:
            raise ValueError(
                f"Expected a tower of a fixed resolution. Received: max_patches={self.max_patches}. NaFlex towers "
                "embed and serve here, and do not train. Start from a checkpoint of a fixed resolution."
            )
        given = [name for name in ("loss", "metrics", "weighted_metrics", "loss_weights") if kwargs.get(name)]
        if given:
            raise ValueError(f"Expected no {given}: the loss is chosen by SigLIP(loss=...). Received: {given}.")
        if not isinstance(steps_per_execution, int) or steps_per_execution < 1:
            raise ValueError(
                "Expected steps_per_execution to be a positive integer: Keras 3 measures none by itself. Received: "
                f"{steps_per_execution!r}."
            )
        strategy = self.distribute_strategy
        replicas = strategy.num_replicas_in_sync
        if jit_compile == "auto":
            jit_compile = replicas == 1 and bool(tf.config.list_logical_devices("GPU"))
        if jit_compile and replicas > 1:
            raise ValueError(
                f"Expected jit_compile=False under {type(strategy).__name__}: TensorFlow cannot compile the step of "
                "one replica by itself. TPUs compile it anyway. Received: jit_compile=True."
            )
        with strategy.scope():
            super().compile(
                optimizer=optimizer, jit_compile=jit_compile, steps_per_execution=steps_per_execution, **kwargs
            )
            optimizers.prepare_optimizer(self, self.optimizer)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        *args,
        validation_data=None,
        validation_split=0.0,
        validation_batch_size=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        **kwargs,
    ):
        """Does the same as `keras.Model.fit`.

        Args:
            x: a tf.data data set of global batches with one static size, a `keras.utils.PyDataset` or a generator of
                such batches, or a dict of arrays. A last, smaller batch of shuffled arrays is left out; it contains
                other examples in every epoch.
            y, class_weight, sample_weight: must be None, because the pairs are in `x` and the loss has no weights.
            batch_size: the size of a global batch, for arrays.
            *args: further arguments of Keras.
            validation_data: the same as `x`, but the last batch may be smaller. Its weight is then the number of its
                examples.
            validation_split: the last fraction of arrays, which becomes validation data.
            validation_batch_size: the batch size of validation arrays. The default is `batch_size`.
            shuffle: whether to shuffle arrays.
            **kwargs: further arguments of Keras.

        Raises:
            ValueError: before the first update, if the data do not fit the model, values are out of range (pixels of
                0 to 255 as floats, ids outside the table), or something would be ignored: targets, weights, `add_loss`,
                weight regularizers, an overridden `compute_loss` or `call`.
        """
        self._check_nothing_is_ignored(y=y, class_weight=class_weight, sample_weight=sample_weight)
        if isinstance(validation_data, tuple):
            validation_data, *rest = validation_data
            self._check_nothing_is_ignored(**{f"validation_data[{i}]": v for i, v in enumerate(rest, 1)})
        if validation_split and validation_data is None:
            x, validation_data = _split(x, validation_split)
        common = {"replicas": self.distribute_strategy.num_replicas_in_sync, "vocab_size": self.vocab_size}
        if validation_data is not None:
            size = validation_batch_size or (batch_size if isinstance(validation_data, Mapping) else None)
            validation_data, self._test_examples = fit_data.prepare(validation_data, batch_size=size, **common)
        x, self._train_examples = fit_data.prepare(
            x, batch_size=batch_size, shuffle=bool(shuffle), training=True, **common
        )
        self._forget_a_step_of_other_weights()
        with fit_data.values_named():
            # Keras itself can shuffle only a PyDataset, and warns about other data sets.
            shuffle = bool(shuffle) and isinstance(x, keras.utils.PyDataset)
            return super().fit(x, None, None, *args, validation_data=validation_data, shuffle=shuffle, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, verbose="auto", sample_weight=None, **kwargs):
        """Does the same as `keras.Model.evaluate`, for data that `fit` accepts as validation data.

        The results are means over batches, weighted by their numbers of examples. A last, smaller batch is padded to
        the size of the others, and the padding is masked. Its loss is that of its own examples under every strategy. A
        batch may also contain such a mask itself: "mask", bool (batch,). `siglip_tf.data.EvaluationData` adds it with
        remainder="pad".

        Raises:
            ValueError: for the same reasons as in `fit`.
        """
        self._check_nothing_is_ignored(y=y, sample_weight=sample_weight)
        if not kwargs.get("_use_cached_eval_dataset"):
            replicas = self.distribute_strategy.num_replicas_in_sync
            x, self._test_examples = fit_data.prepare(
                x, batch_size=batch_size, replicas=replicas, vocab_size=self.vocab_size
            )
        with fit_data.values_named():
            return super().evaluate(x, verbose=verbose, **kwargs)

    def _check_nothing_is_ignored(self, **given):
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise ValueError(f"Expected no targets and no weights: the loss is over pairs. Received: {named}.")
        if type(self).train_step is SigLIP.train_step:
            own = [name for name in ("compute_loss", "compute_metrics", "call") if _overrides(self, name)]
            if own:
                raise ValueError(
                    f"Expected no override of {own}: `train_step` takes embeddings and the loss' gradients in closed "
                    f"form and does not call it. Received: {type(self).__name__}. Override `train_step` as well."
                )
            self._check_losses()

    def _check_losses(self):
        if self.losses:
            raise ValueError(
                f"Expected no `add_loss` and no regularizers: `train_step` has the contrastive loss alone. Received: "
                f"{len(self.losses)} of them. Use the optimizer's weight_decay, or override `train_step`."
            )

    def _forget_a_step_of_other_weights(self):
        """Discards the traced step if other weights are trainable now, because Keras would still use it."""
        trained = tuple(id(variable) for variable in self.trainable_variables)
        if trained != getattr(self, "_traced_for", trained):
            self.train_function = None
        self._traced_for = trained

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds nothing, because the weights exist already, and those of the optimizer exist since `compile`."""

    def _compiler_target(self):
        """Returns the kind of device for which XLA compiles the step, or None without XLA."""
        if isinstance(self.distribute_strategy, tf.distribute.TPUStrategy):
            return target_device() or "TPU"  # a tool that lowers the step for another device sets `target_device`
        if not self.jit_compile:
            return None
        return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"

    def train_step(self, data):
        """Makes one update with a replica's batch, and returns scalars that are equal on all replicas."""
        ring = current_ring()
        variables = self._variables_to_train()
        scalars_of_loss = {id(self.log_temperature), id(self.bias)}
        of_towers = [v for v in variables if id(v) not in scalars_of_loss]
        batch = batch_checks.check_training_batch(data, self._train_examples)
        target = self._compiler_target()
        on_tpu = target == "TPU"
        with compiling_for(target):
            # Keras clips gradients before summing them over replicas, which is wrong for a loss over the global batch.
            # This step sums them first, so that the optimizer clips the gradient of the global batch.
            seed = tf.bitcast(hash_bits(self.seed, tf.cast(self.optimizer.iterations, tf.int32)), tf.int32)
            state = RandomState(seed, ring.index() * batch["text"].shape[0])
            batch["text"] = _drawn_caption(batch["text"], state)

            # Run both towers. `backward` converts gradients of embeddings to gradients of weights.
            inputs = {side: batch[side] for side in ("image", "text") if side in batch}
            if self.microbatch_size:
                embeddings, backward = microbatched(self._encode, inputs, of_towers, state, self.microbatch_size)
            else:
                embeddings, backward = whole_batch(self._encode, inputs, of_towers, state)
            self._check_losses()
            stored = "image_embedding" in batch
            images = self._encode("image_embedding", batch["image_embedding"]) if stored else embeddings["image"]
            frozen_images = stored or not {id(v) for v in self.image.weights} & set(map(id, of_towers))

            # Compute the loss around the ring of replicas, with gradients in closed form (Algorithm 1, section 3.3).
            labels = self._labels(batch)
            result = self._loss(ring, images, embeddings["text"], labels, seed=seed, frozen_images=frozen_images)

            # Go back through the towers. With float16, all gradients are scaled until they are applied.
            scale = self.optimizer.scale_loss(tf.ones(()))
            upstream = {"text": scale * result.text_gradient}
            if not stored:
                upstream["image"] = tf.zeros_like(images) if frozen_images else scale * result.image_gradient
            gradients = dict(zip(map(id, of_towers), backward(upstream), strict=True))
            gradients[id(self.log_temperature)] = scale * result.log_temperature_gradient
            if self.bias is not None:
                gradients[id(self.bias)] = scale * result.bias_gradient

            # The sum over replicas is the gradient of the global batch. The optimizer clips it and makes the update.
            summed = ring.sum([gradients[id(v)] for v in variables])
            found = self._loss_metrics(ring, result, images, embeddings["text"])  # with the weights before the update
            updates = optimizers.apply(self.optimizer, summed, variables, stacked=on_tpu)

            towers = (self.image, self.text) if self.tower_norms else ()
            squares = sums_of_squares([g / scale for g in summed], on_tpu)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                # If the scale is too large for float16, the optimizer skips the update, and there is no gradient.
                finite = self.optimizer.check_finite(summed)
                squares = [tf.where(finite, square, 0.0) for square in squares]
                found["skipped_update"] = 1.0 - tf.cast(finite, tf.float32)
            found |= metrics.norms("gradient", variables, squares, towers)
            after = sums_of_squares([tf.convert_to_tensor(v.value) for v in variables], on_tpu)
            found |= metrics.norms("parameter", variables, after, towers)
            found |= metrics.norms("update", variables, updates, towers)
        self._step_means.update_state(found)
        return self._results(found)

    def _variables_to_train(self):
        variables = self.trainable_variables
        if not variables:
            raise ValueError("Expected something to train. Received: a model whose weights are all frozen.")
        dtypes = {variable.dtype for variable in variables}
        if dtypes != {"float32"}:
            raise ValueError(
                "Expected float32 weights to train: smaller ones round most updates away. Received: the dtype policy "
                f"{self.dtype_policy.name!r}. Use 'mixed_bfloat16' (float32 weights, bfloat16 arithmetic), "
                "'mixed_float16' or 'float32'."
            )
        optimizers.check_knows(self.optimizer, variables)
        return variables

    def test_step(self, data):
        """Computes the loss of one batch without an update. Rows whose "mask" is False are padding."""
        ring = current_ring()
        batch = batch_checks.check_training_batch(data, self._test_examples, masked=True)
        batch["text"] = batch_checks.one_caption(batch["text"])
        sides = {key: value for key, value in batch.items() if key not in ("group", "mask")}
        images, texts = (self._encode(key, value, training=False) for key, value in sides.items())
        seed = tf.bitcast(hash_bits(self.seed, 0), tf.int32)
        labels = self._labels(batch)
        result = self._loss(ring, images, texts, labels, seed=seed, gradients=False)
        found = self._loss_metrics(ring, result, images, texts, labels)
        # The result is a mean over examples, as in Keras. Batches have equal weights unless the last one is smaller.
        examples = tf.cast(labels.count(ring, images.shape[0], tf.float32), tf.float32)
        for tracker in self._test_trackers:
            tracker.update_state(found[tracker.name], sample_weight=examples)
        return self._results({tracker.name: tracker.result() for tracker in self._test_trackers})

    def predict_step(self, data):
        """Returns the embeddings of a batch."""
        batch = data[0] if isinstance(data, tuple) else data
        return self(batch, training=False)

    @property
    def metrics(self):
        """The metrics of `evaluate`, then those of `fit`. Keras uses the ones with the names that the step returns."""
        return [*self._test_trackers, self._step_means]

    @property
    def variables(self):
        """The whole state of a step. Keras leaves out the means of an epoch, which `train_step` updates."""
        means = getattr(self, "_step_means", None)
        return [*super().variables, *(means.variables if means is not None else ())]

    def _labels(self, batch):
        """Returns the labels of the pairs that are not negatives because of their groups or captions."""
        text = batch["text"]
        rules = (batch.get("group"), self.same_group, text, self.equal_captions)
        return pair_labels(*rules, text.shape[0], batch.get("mask"))

    def _loss(self, ring: Ring, images, texts, labels, *, seed, frozen_images=False, gradients=True) -> LossResult:
        t = tf.convert_to_tensor(self.log_temperature.value)
        common = {"tile_size": self.tile_size, "frozen_images": frozen_images, "gradients": gradients}
        common |= {"labels": labels, "precision": self.loss_precision}
        if self.loss_name == "softmax":
            return softmax_loss_and_gradients(ring, images, texts, t, **common)
        bias = tf.zeros(()) if self.bias is None else tf.convert_to_tensor(self.bias.value)
        negatives = None if self.negatives is None else Negatives(**self.negatives)
        return sigmoid_loss_and_gradients(ring, images, texts, t, bias, negatives=negatives, seed=seed, **common)

    def _loss_metrics(self, ring, result, images, texts, labels=None):
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias.value)
        temperature = tf.exp(tf.convert_to_tensor(self.log_temperature.value))
        return metrics.loss_metrics(ring, result, images, texts, temperature, bias, labels)

    def _results(self, scalars):
        """Adds an axis for several workers, because Keras averages results of workers over axis 0."""
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return {name: tf.reshape(value, (1,)) for name, value in scalars.items()}
        return scalars

    # Fine-tuning.

    def train_only(self, image: str | int = "all", text: str | int = "all", temperature: bool = True) -> list[str]:
        """Makes only some parts of the model trainable. Call it before `compile`.

        Args:
            image: the trainable part of the image tower: "all", "frozen", "head" (the layer that pools or projects the
                tokens), or a number of last blocks, which includes the final norm and the head.
            text: the trainable part of the text tower, with the same values.
            temperature: whether the temperature and the bias are trainable. If both towers are "frozen", only they are.

        Returns:
            The names of the trainable weights.

        Raises:
            ValueError: if a value is invalid, the model does not have the part, or nothing is trainable.
        """
        return fine_tuning.train_only(self, image, text, temperature)

    def enable_lora(
        self,
        rank: int | Mapping[str, Any],
        projections: Iterable[str] = tuple(lora.PROJECTIONS),
        alpha: float | None = None,
        train_temperature: bool = True,
    ) -> list[str]:
        """Adds low-rank adapters (LoRA) and freezes all other weights. Call it before `compile`.

        Args:
            rank: the rank of all adapters, or {"image": rank, "text": rank}. A tower that is left out stays frozen. A
                rank of a tower may also be {"q": rank, ...}.
            projections: the projections that get adapters, from "q", "k", "v", "out", "fc1", and "fc2". This applies to
                every block and to the MAP head.
            alpha: the adapters are scaled by alpha / rank. The default is the rank.
            train_temperature: whether the temperature and the bias are trainable too.

        Returns:
            The paths of the layers that have an adapter.

        Raises:
            ValueError: if a rank is below 1 or too large for a kernel, a tower or projection is unknown, or the model
                has other adapters. Then nothing changes.
        """
        return lora.enable_lora(self, rank, projections, alpha, train_temperature)

    @property
    def has_adapters(self) -> bool:
        """Whether any layer has a low-rank adapter."""
        return bool(lora.adapters_of(self))

    def merge_lora(self) -> "SigLIP":
        """Returns a new model without adapters that gives the same embeddings, or the model itself if it has none."""
        return lora.merge_lora(self)

    def save_adapters(self, path: str | os.PathLike) -> None:
        """Writes the adapters and all other trainable weights to one safetensors file.

        Raises:
            ValueError: if the model has no adapters.
        """
        lora.save_adapters(self, path)

    def load_adapters(self, path: str | os.PathLike) -> None:
        """Adds or sets the adapters from a file of `save_adapters`, and freezes all weights that are not in the file.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file has another format or is of another model. Then nothing changes.
        """
        lora.load_adapters(self, path)

    # Files.

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike,
        image_size: int | tuple[int, int] | None = None,
        tokenizer: str | os.PathLike | None = None,
        resize: str | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> "SigLIP":
        """Returns a model with the weights, architecture, and preprocessing of a checkpoint.

        Args:
            path: a big_vision or AugReg npz file, a Hugging Face folder or safetensors file, a KerasHub preset folder,
                or a folder that `save_checkpoint` wrote. The format is recognized by the content.
            image_size: another resolution in pixels. The position embeddings are resampled bilinearly.
            tokenizer: a SentencePiece model file, for formats that do not contain one (npz).
            resize: the method to resize images ("big_vision", "bicubic_antialias", "bilinear_antialias"). It replaces
                the checkpoint's own method.
            verbose: whether to print a description of the checkpoint.
            **options: further arguments of `SigLIP`, such as `remat`, `dropout`, or `max_patches` of a NaFlex model. A
                checkpoint of a single image tower (AugReg) needs arguments of a text tower, at least `text`; that tower
                starts from initial weights.

        Returns:
            The model. Its `preprocessing` is None if the checkpoint does not describe one.

        Raises:
            FileNotFoundError: if the path does not exist.
            ValueError: if the file is damaged or has another format, or does not hold the weights of one whole model.
        """
        return pretrained.read_model(cls, path, image_size, tokenizer, resize, verbose, options)

    def to_checkpoint(self) -> Checkpoint:
        """Returns the model as named arrays, architecture, and preprocessing, for `siglip_tf.checkpoints.write`.

        Adapters are merged into their kernels.
        """
        return pretrained.checkpoint_of(self, self._arguments)

    def save_checkpoint(self, path: str | os.PathLike, format: str = "native") -> tuple[str, ...]:
        """Writes the weights, the architecture, and the preprocessing atomically.

        Args:
            path: the folder to write. For "big_vision" it is a file.
            format: "native", "big_vision", "hugging_face", or "keras_hub".

        Returns:
            Notes on what the format cannot express exactly.

        Raises:
            ValueError: if the format is unknown or cannot express the model.
        """
        return checkpoints.write(path, self.to_checkpoint(), format)

    def get_config(self) -> dict[str, Any]:
        dtype = keras.saving.serialize_keras_object(self.dtype_policy)
        config = {"name": self.name, "dtype": dtype, **self._arguments}
        state = trainability(self)
        return {**config, "trainability": state} if state else config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.saving.deserialize_keras_object(config["dtype"])
        state = config.pop("trainability", {})
        model = cls(**config)
        restore_trainability(model, state)
        return model

    def get_compile_config(self):
        """Returns the arguments of `compile` that `.keras` files store. Each machine chooses `jit_compile` again."""
        if not self.compiled:
            return None
        steps = self.steps_per_execution
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer), "steps_per_execution": steps}

    def compile_from_config(self, config):
        """Compiles the model in `load_model` with the result of `get_compile_config`."""
        self.compile(**keras.saving.deserialize_keras_object(config))


def _drawn_caption(text, state):
    """Draws one of several captions for each image. Every step draws again."""
    examples = state.first_example + tf.range(text.shape[0])
    return batch_checks.one_caption(text, hash_bits(state.seed, _CAPTIONS, examples))


def _overrides(model, name):
    base = SigLIP if name in vars(SigLIP) else keras.Model
    return getattr(type(model), name) is not getattr(base, name)


def _split(arrays, share):
    """Splits a dict of arrays into the first examples and the last fraction `share`."""
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"Expected a dict of arrays with validation_split. Received: {type(arrays).__name__}. Give validation_data."
        )
    n = min(len(value) for value in arrays.values())
    first = math.floor(n * (1 - share))
    return {k: v[:first] for k, v in arrays.items()}, {k: v[first:] for k, v in arrays.items()}


def _check_positive(**values):
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"Expected {name} to be a positive integer. Received: {value!r}.")
