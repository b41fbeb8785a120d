"""A small deterministic run for the tests, also a program: python -m tests.training.small_run DIRECTORY [--die-...]."""

import argparse
import os
import signal
import time

import keras
import numpy as np
import tensorflow as tf

from siglip_tf.optimizers import AdamW, Cosine
from siglip_tf.training import Resume, train

STEPS = 40
BATCH = 8


@keras.saving.register_keras_serializable("tests")
class MultiWorkerSequential(keras.Sequential):
    """The two overrides that Keras' `fit` needs under `MultiWorkerMirroredStrategy`."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        del iterator, data_batch

    def train_step(self, data):
        return {name: tf.reshape(value, [1]) for name, value in super().train_step(data).items()}


def make_model(width: int = 16, rate: float = 1e-2, multi_worker: bool = False) -> keras.Model:
    keras.utils.set_random_seed(3)
    kind = MultiWorkerSequential if multi_worker else keras.Sequential
    model = kind(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, activation="tanh"),
            keras.layers.Dropout(0.3, seed=5),
            keras.layers.Dense(width),
            keras.layers.Dense(2),
        ]
    )
    optimizer = AdamW(learning_rate=rate, schedule=Cosine(STEPS, 4))
    model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError(reduction="sum_over_batch_size"))
    return model


def batches(start: int) -> tf.data.Dataset:
    """Batch i is a function of i alone."""

    def batch(index):
        images = tf.random.stateless_normal((BATCH, 6), seed=tf.stack([index, tf.constant(7, tf.int64)]))
        return images, tf.stack([tf.reduce_sum(images, 1), tf.reduce_prod(images, 1)], 1)

    return tf.data.Dataset.range(start, 1_000_000).map(batch).prefetch(2)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


class Slow(keras.callbacks.Callback):
    """Gives a killer time to aim."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


class Die(keras.callbacks.Callback):
    """SIGKILL or SIGTERM to this very process after a step."""

    def __init__(self, resume: Resume, step: int, number: int):
        super().__init__()
        self.resume, self.step, self.number = resume, step, number

    def on_train_batch_end(self, batch, logs=None):
        if self.resume.step == self.step:
            os.kill(os.getpid(), self.number)


def die_while_writing(resume: Resume, step: int) -> None:
    """Dies when the variables of a step's checkpoint are written and the marker is not."""
    commit = resume.store.commit

    def dying(at: int) -> str:
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(at)

    resume.store.commit = dying


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--multi-worker", action="store_true")
    parser.add_argument("--die-writing", type=int)
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--terminate-after", type=int)
    parser.add_argument("--ready")
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()

    strategy = tf.distribute.MultiWorkerMirroredStrategy() if arguments.multi_worker else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model(arguments.width, multi_worker=arguments.multi_worker)
    resume = Resume(arguments.directory, every=arguments.every, asynchronous=arguments.asynchronous)
    callbacks = [Slow(arguments.sleep)] if arguments.sleep else []
    if arguments.die_writing is not None:
        die_while_writing(resume, arguments.die_writing)
    if arguments.die_after is not None:
        callbacks.append(Die(resume, arguments.die_after, signal.SIGKILL))
    if arguments.terminate_after is not None:
        callbacks.append(Die(resume, arguments.terminate_after, signal.SIGTERM))
    if arguments.ready:
        with open(arguments.ready, "w", encoding="utf-8"):
            pass
    data = batches
    if arguments.multi_worker:
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA

        def data(start):
            return batches(start).unbatch().batch(BATCH, drop_remainder=True).with_options(options)

    train(model, data, steps=STEPS, global_batch_size=BATCH, resume=resume, log_every=1, callbacks=callbacks)
    np.savez(os.path.join(arguments.directory, f"final_{os.getpid()}.npz"), *weights(model))


if __name__ == "__main__":
    main()
