"""One training step, right on every strategy: towers, loss round the ring, sum over replicas, clip, update, metrics."""

import keras
import tensorflow as tf

from siglip_tf.distribution import Ring, current_ring
from siglip_tf.losses import Negatives, sigmoid_loss_and_gradients, softmax_loss_and_gradients
from siglip_tf.losses.result import LossResult
from siglip_tf.models.batch import check_training_batch, static_batch_size
from siglip_tf.models.microbatch import microbatched, whole_batch
from siglip_tf.optimizers import ReferenceChain, freeze
from siglip_tf.primitives.dropout import RandomState
from siglip_tf.primitives.hashing import hash_bits
from siglip_tf.primitives.rematerialization import compiling_with_xla
from siglip_tf.primitives.stacking import sums_of_squares


class StepMixin:
    """`compile`, `train_step` and `test_step` of the SigLIP model; what `fit` and `evaluate` run on each replica.

    Keras clips gradients before it sums them over replicas, which is wrong for a loss over the global batch. Here the
    step sums them first, so that the optimizer's own clipping sees the gradient of the global batch.
    """

    # Examples of a replica's batch in `fit` and in `evaluate`, where the data set tells.
    _train_examples: int | None = None
    _test_examples: int | None = None

    def compile(self, optimizer="adamw", jit_compile="auto", **kwargs):
        """As `keras.Model.compile`; the loss is the model's own.

        Args:
            optimizer: a Keras optimizer, made under the same strategy as the model, or its name.
            jit_compile: "auto" compiles with XLA on one GPU. Under a strategy TensorFlow cannot compile a step by
                itself (a TPU compiles it anyway), and on CPU it does not pay.
            **kwargs: `run_eagerly`, `steps_per_execution`, `auto_scale_loss`.

        Raises:
            ValueError: for a loss, metrics or an option of the optimizer that is wrong for a contrastive loss.
        """
        given = [name for name in ("loss", "metrics", "weighted_metrics", "loss_weights") if kwargs.get(name)]
        if given:
            raise ValueError(f"Expected no {given}: the loss is chosen by SigLIP(loss=...). Received: {given}.")
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
            super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
            self._take_over(self.optimizer, strategy)

    def get_compile_config(self):
        """What `.keras` files keep of `compile`: the optimizer; where to compile is chosen anew on every machine."""
        if not self.compiled:
            return None
        steps = self.steps_per_execution
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer), "steps_per_execution": steps}

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says, in `load_model`."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _take_over(self, optimizer, strategy):
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if optimizer is not inner and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Expected no loss scaling under a strategy. Received: LossScaleOptimizer. Use the dtype policy "
                "'mixed_bfloat16' in place of 'mixed_float16'."
            )
        if inner.gradient_accumulation_steps:
            raise ValueError(
                "Expected no gradient accumulation: it adds up losses of small batches, which is another loss. "
                f"Received: gradient_accumulation_steps={inner.gradient_accumulation_steps}. Use "
                "SigLIP(microbatch_size=...), whose gradient is that of the whole batch."
            )
        if inner.use_ema and inner.ema_overwrite_frequency and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Expected ema_overwrite_frequency=None under a strategy, where Keras fails. Received: "
                f"{inner.ema_overwrite_frequency}."
            )
        if inner._distribution_strategy is not strategy:
            raise ValueError(
                f"Expected an optimizer made inside `strategy.scope()` of the model's {type(strategy).__name__}. "
                f"Received: one made under {type(inner._distribution_strategy).__name__}."
            )
        inner._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
        if not optimizer.built:
            freeze(self, getattr(inner, "groups", ()))
            optimizer.build(self.trainable_variables)

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`, on a data set whose batches are global and of a static size."""
        self._train_examples = static_batch_size(x, self.distribute_strategy.num_replicas_in_sync)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`, on a data set whose batches are global and of a static size."""
        self._test_examples = static_batch_size(x, self.distribute_strategy.num_replicas_in_sync)
        return super().evaluate(x, *args, **kwargs)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing to build: weights exist from the start, the optimizer's since `compile`."""

    def train_step(self, data):
        """One update from one replica's batch; returns scalars that are equal on every replica."""
        ring = current_ring()
        with compiling_with_xla(self.jit_compile or isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)):
            return self._results(self._train_step(ring, check_training_batch(data, self._train_examples)))

    def _train_step(self, ring, batch):
        b = batch["text"].shape[0]
        seed = tf.bitcast(hash_bits(self.seed, tf.cast(self.optimizer.iterations, tf.int32)), tf.int32)
        state = RandomState(seed, ring.index() * b)
        variables = self.trainable_variables
        own = {id(self.log_temperature), id(self.bias)}
        of_towers = [v for v in variables if id(v) not in own]

        inputs = {"text": batch["text"]}
        if "image" in batch:
            inputs = {"image": batch["image"], **inputs}
        if self.microbatch_size:
            embeddings, backward = microbatched(self._encode, inputs, of_towers, state, self.microbatch_size)
        else:
            embeddings, backward = whole_batch(self._encode, inputs, of_towers, state)
        frozen_images = "image_embedding" in batch or not self.image.trainable_variables
        images = embeddings["image"] if "image" in batch else self._encode("image_embedding", batch["image_embedding"])
        result = self._loss(ring, images, embeddings["text"], seed=seed, frozen_images=frozen_images)

        scale = self.optimizer.scale_loss(tf.ones(()))
        upstream = {"text": scale * result.text_gradient}
        if "image" in batch:
            image_gradient = tf.zeros_like(images) if frozen_images else result.image_gradient
            upstream["image"] = scale * image_gradient
        gradients = dict(zip(map(id, of_towers), backward(upstream), strict=True))
        gradients[id(self.log_temperature)] = scale * result.log_temperature_gradient
        if self.bias is not None:
            gradients[id(self.bias)] = scale * result.bias_gradient
        summed = ring.sum([gradients[id(v)] for v in variables])

        stacked = isinstance(self.distribute_strategy, tf.distribute.TPUStrategy)
        metrics = self._loss_metrics(ring, result, images, embeddings["text"])
        metrics |= self._norms("gradient", variables, sums_of_squares([g / scale for g in summed], stacked))
        tells = isinstance(self.optimizer, ReferenceChain)  # what its update was; else a copy of all weights tells
        before = [] if tells else [tf.convert_to_tensor(v.value) for v in variables]
        self.optimizer.apply(summed, variables)
        after = [tf.convert_to_tensor(v.value) for v in variables]
        metrics |= self._norms("parameter", variables, sums_of_squares(after, stacked))
        if tells:
            updates = tf.unstack(tf.convert_to_tensor(self.optimizer.update_sum_of_squares.value))
        else:
            updates = sums_of_squares([a - b for a, b in zip(after, before, strict=True)], stacked)
        return metrics | self._norms("update", variables, updates)

    def test_step(self, data):
        """The loss of one batch without an update; `evaluate` reports means over batches."""
        ring = current_ring()
        batch = check_training_batch(data, self._test_examples)
        images, texts = (self._encode(key, value, training=False) for key, value in batch.items())
        seed = tf.bitcast(hash_bits(self.seed, 0), tf.int32)
        result = self._loss(ring, images, texts, seed=seed, gradients=False)
        found = self._loss_metrics(ring, result, images, texts)
        for tracker in self._test_trackers:
            tracker.update_state(found[tracker.name])
        return self._results({tracker.name: tracker.result() for tracker in self._test_trackers})

    def predict_step(self, data):
        """Embeddings of whatever the batch holds."""
        batch = data[0] if isinstance(data, tuple) else data
        return self(batch, training=False)

    @property
    def metrics(self):
        return self._test_trackers

    def _make_trackers(self):
        names = ("loss", "positive_logit", "negative_logit")
        self._test_trackers = [keras.metrics.Mean(name=name) for name in names]

    def _loss(self, ring, images, texts, *, seed, frozen_images=False, gradients=True) -> LossResult:
        t = tf.convert_to_tensor(self.log_temperature.value)
        common = {"tile_size": self.tile_size, "frozen_images": frozen_images, "gradients": gradients}
        if self.loss_name == "softmax":
            return softmax_loss_and_gradients(ring, images, texts, t, **common)
        bias = tf.zeros(()) if self.bias is None else tf.convert_to_tensor(self.bias.value)
        negatives = None if self.negatives is None else Negatives(**self.negatives)
        return sigmoid_loss_and_gradients(ring, images, texts, t, bias, negatives=negatives, seed=seed, **common)

    def _loss_metrics(self, ring: Ring, result: LossResult, images, texts):
        """Loss, temperature, bias and mean logits over the global batch: the latter need no matrix, only sums."""
        b = images.shape[0]
        n = b * ring.size
        t = tf.exp(tf.convert_to_tensor(self.log_temperature.value))
        bias = tf.zeros(()) if self.bias is None else tf.convert_to_tensor(self.bias.value)
        loss, positives, image_sum, text_sum = ring.sum(
            [result.loss, tf.reduce_sum(result.positive_logits), tf.reduce_sum(images, 0), tf.reduce_sum(texts, 0)]
        )
        all_pairs = t * tf.reduce_sum(image_sum * text_sum) + bias * float(n) ** 2
        metrics = {"loss": loss, "temperature": t}
        if self.bias is not None:
            metrics["bias"] = bias
        return metrics | {
            "positive_logit": positives / n,
            "negative_logit": (all_pairs - positives) / float(max(n * (n - 1), 1)),
        }

    def _norms(self, what, variables, squares):
        """Global norm from each variable's sum of squares, and each tower's where `tower_norms` asks for it."""
        norms = {f"{what}_norm": tf.sqrt(tf.add_n(squares))}
        if self.tower_norms:
            for tower in (self.image, self.text):
                ids = {id(v) for v in tower.trainable_variables} if tower is not None else set()
                own = [s for s, v in zip(squares, variables, strict=True) if id(v) in ids]
                if own:
                    norms[f"{tower.name}_{what}_norm"] = tf.sqrt(tf.add_n(own))
        return norms

    def _results(self, scalars):
        """Keras takes a mean over axis 0 of step results across workers, which scalars do not have."""
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return {name: tf.reshape(value, (1,)) for name, value in scalars.items()}
        return scalars
