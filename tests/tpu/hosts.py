"""All of `fit` of a recipe with tiny towers, traced for a slice of several hosts.

usage: python -m tests.tpu.hosts RECIPE SETUP TOPOLOGY

It prints the input pipelines that were asked for, as JSON. A process of its own, as servers stand for the hosts.
"""

import importlib
import json
import sys

import tensorflow as tf

from siglip_tf import tpu
from tests.tpu.test_recipes import IMAGE, SIZES


def main(name, setup, topology):
    topology = tpu.Topology(topology)
    strategy = tpu.made_up_tpu_strategy(topology.chips, topology.hosts)
    recipe = importlib.import_module(f"recipes.{name}").RECIPE
    with tpu.weightless_scope(strategy):
        subject = recipe.subject(setup, **SIZES, **IMAGE)
    pipelines = []

    def dataset(context):
        pipelines.append([context.input_pipeline_id, context.num_input_pipelines, context.num_replicas_in_sync])
        batch = {key: tf.zeros((2, *spec.shape), spec.dtype) for key, spec in subject.batch.items()}
        return tf.data.Dataset.from_tensors(batch).repeat()

    # Chips that are not there cannot hold a batch.
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    program = tpu.trace_fit(subject.model, strategy.distribute_datasets_from_function(dataset, options))
    tpu.check_program(program)
    print(json.dumps({"pipelines": pipelines, "replicas": program.replicas}))


if __name__ == "__main__":
    main(*sys.argv[1:])
