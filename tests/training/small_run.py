"""A small deterministic run for the tests, also a program: python -m tests.training.small_run DIRECTORY [--die-...]."""

import argparse
import os
import pathlib
import random
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import siglip_tf
from siglip_tf.data.pipeline import TrainingData
from siglip_tf.evaluation.results import TaskResult
from siglip_tf.evaluation.tasks import Task
from siglip_tf.optimizers import AdamW, Cosine
from siglip_tf.training import PeriodicEvaluation, Resume, evaluation, train
from tests.data.memory_source import MemorySource, tiny_preprocessing

STEPS = 40
BATCH = 8


def make_model(width: int = 16, dropout: float = 0.3) -> keras.Model:
    """A plain Keras model with dropout."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, activation="tanh"),
            keras.layers.Dropout(dropout, seed=5),
            keras.layers.Dense(width),
            keras.layers.Dense(2),
        ]
    )
    optimizer = AdamW(learning_rate=1e-2, schedule=Cosine(STEPS, 4))
    model.compile(optimizer=optimizer, loss=keras.losses.MeanSquaredError(reduction="sum_over_batch_size"))
    return model


def make_siglip(vocab_size: int = 80, steps: int = STEPS) -> siglip_tf.SigLIP:
    """A SigLIP model of one block a tower, with dropout; the vocabulary sets how long a checkpoint takes to write."""
    keras.utils.set_random_seed(3)
    model = siglip_tf.SigLIP(
        image="mu/8", text="mu", image_size=16, text_length=4, vocab_size=vocab_size, dropout=0.1, tower_norms=True
    )
    model.compile(optimizer=AdamW(learning_rate=1e-2, schedule=Cosine(steps, 4)))
    return model


def evaluated_siglip(steps: int = STEPS) -> siglip_tf.SigLIP:
    """The same model with a preprocessing, which evaluation needs."""
    model = make_siglip(steps=steps)
    model.preprocessing = tiny_preprocessing(size=16, length=4)
    return model


def batches(start: int) -> tf.data.Dataset:
    """Batch i is a function of i alone."""

    def batch(index):
        images = tf.random.stateless_normal((BATCH, 6), seed=tf.stack([index, tf.constant(7, tf.int64)]))
        return images, tf.stack([tf.reduce_sum(images, 1), tf.reduce_prod(images, 1)], 1)

    return tf.data.Dataset.range(start, 1_000_000).map(batch).prefetch(2)


def no_batches(start: int) -> tf.data.Dataset:
    """Looks for a batch forever and finds none."""
    return batches(start).repeat().filter(lambda images, targets: tf.reduce_all(images > 1e9))


def pairs(start: int) -> tf.data.Dataset:
    """Batch i of images and texts is a function of i alone."""

    def pair(index):
        seed = tf.stack([index, tf.constant(7, tf.int64)])
        image = tf.random.stateless_uniform((16, 16, 3), seed, -1.0, 1.0)
        text = tf.random.stateless_uniform((4,), seed, 0, 50, tf.int32)
        return {"image": image, "text": text}

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    examples = tf.data.Dataset.range(start * BATCH, 10_000_000).map(pair)
    return examples.batch(BATCH, drop_remainder=True).with_options(options).prefetch(2)


def training_data() -> TrainingData:
    """A source of 47 records, five of them broken, so that the position is no multiple of the step."""
    broken = {3: {"image": b"no image"}, **{i: {"captions": []} for i in (11, 12, 30, 46)}}
    return TrainingData(
        MemorySource(47, broken), tiny_preprocessing(size=16, length=4), BATCH, seed=2, bad_record_limit=0.5
    )


def weights(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


class Weighed(Task):
    """A task whose figures follow from the weights alone and go up and down; it takes its time."""

    name = "weighed"
    metric_names = ("score", "loss")

    def run(self, evaluation):
        time.sleep(0.1)
        random.random()
        total = sum(float(np.abs(v).sum(dtype=np.float64)) for v in evaluation.embedder.model.get_weights())
        return TaskResult(self.name, "weighed", 1, {"score": total * 100 % 1, "loss": total}, {})


class WithoutTowers:
    """Stands for `Embedder` and `Evaluation`, so that a plain Keras model can be evaluated."""

    def __init__(self, model, batch_size):
        self.model = model

    class Evaluation:
        def __init__(self, embedder, progress):
            self.embedder, self.progress = embedder, progress

        def run(self, tasks):
            return [task.run(self) for task in tasks]


class Slow(keras.callbacks.Callback):
    """Gives a killer time to aim."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


class Ready(keras.callbacks.Callback):
    """Says by a file that steps are being made."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:  # the first step compiles
            pathlib.Path(self.path).touch()


class Die(keras.callbacks.Callback):
    """SIGKILL or SIGTERM to this very process after a step."""

    def __init__(self, resume: Resume, step: int, number: int):
        super().__init__()
        self.resume, self.step, self.number = resume, step, number

    def on_train_batch_end(self, batch, logs=None):
        if self.resume.step == self.step:
            os.kill(os.getpid(), self.number)


class DieIn(keras.callbacks.Callback):
    """SIGKILL to this very process at some moment after so many of its steps."""

    def __init__(self, steps: int, seconds: float):
        super().__init__()
        self.steps, self.seconds = steps, seconds

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.steps:
            threading.Timer(self.seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


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
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=80)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--sequential", action="store_true")
    parser.add_argument("--training-data", action="store_true")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--multi-worker", action="store_true")
    parser.add_argument("--evaluate", action="store_true")
    parser.add_argument("--stall", action="store_true", help="data that never gives a batch")
    parser.add_argument("--die-writing", type=int)
    parser.add_argument("--die-after", type=int)
    parser.add_argument("--die-in", type=float, nargs=2, metavar=("STEPS", "SECONDS"))
    parser.add_argument("--terminate-after", type=int)
    parser.add_argument("--ready")
    parser.add_argument("--final")
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()

    strategy = tf.distribute.MultiWorkerMirroredStrategy() if arguments.multi_worker else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model() if arguments.sequential else make_siglip(arguments.vocab_size, arguments.steps)
    resume = Resume(arguments.directory, every=arguments.every, asynchronous=arguments.asynchronous)
    callbacks = [Slow(arguments.sleep)] if arguments.sleep else []
    if arguments.die_writing is not None:
        die_while_writing(resume, arguments.die_writing)
    if arguments.die_after is not None:
        callbacks.append(Die(resume, arguments.die_after, signal.SIGKILL))
    if arguments.die_in:
        callbacks.append(DieIn(int(arguments.die_in[0]), arguments.die_in[1]))
    if arguments.terminate_after is not None:
        callbacks.append(Die(resume, arguments.terminate_after, signal.SIGTERM))
    if arguments.ready:
        callbacks.append(Ready(arguments.ready))
    data = training_data() if arguments.training_data else batches if arguments.sequential else pairs
    if arguments.stall:
        data = no_batches
    if arguments.evaluate:
        evaluation.Embedder, evaluation.Evaluation = WithoutTowers, WithoutTowers.Evaluation
    train(
        model,
        data,
        steps=arguments.steps,
        global_batch_size=BATCH,
        resume=resume,
        evaluation=PeriodicEvaluation([Weighed()], every=3) if arguments.evaluate else None,
        log_every=1,
        callbacks=callbacks,
    )
    if arguments.final:
        np.savez(arguments.final, *weights(model))


if __name__ == "__main__":
    main()
