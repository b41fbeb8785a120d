"""One worker of a MultiWorkerMirroredStrategy: trains the tiny SigLIP and saves what it ended with.

python -m tests.distribution.worker RANK WORKERS PORT OUTPUT [--steps N] [--optimizer NAME] [--loop]
"""

import argparse
import json
import os
import sys


def main():
    parser = argparse.ArgumentParser()
    for name in ("rank", "workers", "port"):
        parser.add_argument(name, type=int)
    parser.add_argument("output")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--replica-batch", type=int, default=6)
    parser.add_argument("--optimizer", default="adamw")
    arguments = parser.parse_args()

    addresses = [f"127.0.0.1:{arguments.port + i}" for i in range(arguments.workers)]
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": arguments.rank}}
    )
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

    import keras
    import numpy as np
    import tensorflow as tf

    from tests.distribution import settings
    from tests.models import small

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = small.model()
        model.compile(settings.optimizer(arguments.optimizer))
    data = small.dataset(arguments.workers * arguments.replica_batch, arguments.steps)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    print("fitting", flush=True)
    progress = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: print("step", step, flush=True))
    logs = model.fit(data.with_options(options), verbose=0, callbacks=[progress]).history
    evaluated = model.evaluate(data.with_options(options), verbose=0, return_dict=True)
    weights = {f"weight_{i}": w.numpy() for i, w in enumerate(model.trainable_variables)}
    np.savez(arguments.output, **weights, **{f"log_{k}": v for k, v in logs.items()}, evaluated=evaluated["loss"])
    sys.stdout.flush()


if __name__ == "__main__":
    main()
