"""Cutting a global batch for input processes, and what a host's data set consists of."""

import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.data.experimental import service

from siglip_tf.data.service.shares import cut, put_together


@pytest.mark.parametrize(
    ("batch", "inputs", "hosts", "replicas", "chunks"),
    [(24, 1, 1, 1, 1), (24, 2, 1, 1, 2), (24, 2, 2, 8, 8), (24, 4, 2, 2, 4), (24, 3, 1, 4, 12), (4096, 1, 1, 4, 4)],
)
def test_the_hosts_batches_are_the_global_batch(batch, inputs, hosts, replicas, chunks):
    pieces = cut(batch, 1, inputs, hosts, replicas)
    assert pieces.chunks == chunks
    steps = np.arange(3 * batch).reshape(3, batch)

    def served(index):
        """What the input process makes: its share of every step, in chunks."""
        share = np.split(steps, inputs, axis=1)[index].reshape(-1, batch // chunks)
        assert pieces.context(index).num_replicas_in_sync == chunks
        return tf.data.Dataset.from_tensor_slices({"x": share})

    found = []
    for host in range(hosts):
        own = range(host * pieces.inputs_a_host, (host + 1) * pieces.inputs_a_host)
        parts = [b["x"].numpy() for b in put_together([served(i) for i in own], pieces)]
        assert {len(part) for part in parts} == {batch // replicas}
        found.append(np.concatenate(parts).reshape(3, -1))
    np.testing.assert_array_equal(np.concatenate(found, axis=1), steps)


def test_chunks_stay_small_enough_to_travel():
    pieces = cut(4096, 224 * 224 * 3 * 4, 1, 1, 1)
    assert 4096 // pieces.chunks * 224 * 224 * 3 * 4 <= 1 << 28 and pieces.chunks_a_replica == pieces.chunks


def test_what_does_not_divide_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="3 input processes cannot feed 2 hosts"):
        cut(24, 1, 3, 2, 2)
    with pytest.raises(ValueError, match="5 input processes and 2 replicas divide. Received: 24"):
        cut(24, 1, 5, 1, 2)


def test_a_hosts_data_set_consists_of_ops_of_tensorflow_alone():
    pieces = cut(24, 1, 4, 2, 2)
    spec = {"image": tf.TensorSpec((6, 4, 4, 3)), "text": tf.TensorSpec((6, 5), tf.int32)}

    @tf.function
    def made():
        parts = [
            service.from_dataset_id(
                service.ShardingPolicy.OFF, service="grpc://localhost:1", dataset_id="1000", element_spec=spec
            )
            for _ in range(2)
        ]
        dataset = put_together(parts, pieces)
        return dataset._variant_tensor  # the ops of a data set have no public listing

    graph = made.get_concrete_function().graph.as_graph_def()
    ops = {node.op for node in graph.node}
    ops |= {node.op for function in graph.library.function for node in function.node_def}
    assert {"DataServiceDatasetV4", "DirectedInterleaveDataset", "BatchDatasetV2"} <= ops
    assert not [op for op in ops if re.search(r">|Py|Sentencepiece|Lookup", op)], ops
