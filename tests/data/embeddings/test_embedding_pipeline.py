"""Batches of stored embeddings: the pairs of `TrainingData`, each once an epoch, from any position, on any replica."""

import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data.corruption import Corruption
from siglip_tf.data.embeddings.pipeline import EmbeddingData
from siglip_tf.data.embeddings.stored import StoredEmbeddings
from siglip_tf.data.embeddings.writer import EmbeddingWriter
from siglip_tf.data.order.position import merge_states
from siglip_tf.data.pipeline import TrainingData
from tests.data.memory_source import MemorySource, tiny_preprocessing
from tests.replicas import two_replicas

SIZE, DIM = 47, 3


def mean_color(pixels):
    return tf.reduce_mean(tf.cast(pixels, tf.float32), [1, 2]) / 127.5 - 1


@pytest.fixture(scope="module")
def preprocessing():
    return tiny_preprocessing(length=24)


@pytest.fixture(scope="module", params=["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def stored(request, tmp_path_factory, preprocessing) -> StoredEmbeddings:
    folder = tmp_path_factory.mktemp("embeddings")
    source = MemorySource(SIZE, captions=3)
    options = {"tower": "tower", "embed_dim": DIM, "dtype": request.param, "batch_size": 8, "shard_records": 9}
    return EmbeddingWriter(folder, source, preprocessing, mean_color, **options).run()


def pairs(dataset, batches: int) -> list[list]:
    rows = []
    for batch in dataset.take(batches):
        colors = np.round((batch["image_embedding"].numpy() + 1) * 127.5).astype(int)
        rows += [[color[0], text] for color, text in zip(colors.tolist(), batch["text"].numpy().tolist(), strict=True)]
    return rows


@pytest.mark.slow
def test_the_pairs_are_those_of_training_data(stored, preprocessing):
    own = pairs(EmbeddingData(stored, 8, seed=3).dataset(), 13)
    other = []
    for batch in TrainingData(MemorySource(SIZE, captions=3), preprocessing, 8, seed=3).dataset().take(13):
        colors = batch["image"].numpy()[:, 0, 0, 0].tolist()
        other += [[c, t] for c, t in zip(colors, batch["text"].numpy().tolist(), strict=True)]
    assert own == other


@pytest.mark.parametrize("streams", [1, 2])
def test_each_image_once_an_epoch_with_changing_captions(stored, streams):
    seen = pairs(EmbeddingData(stored, 2, streams=streams).dataset(), 3 * SIZE)
    images = [image for image, _ in seen]
    for epoch in range(0, 6 * SIZE, SIZE):
        assert sorted(images[epoch : epoch + SIZE]) == list(range(SIZE))
    assert images[:SIZE] != images[SIZE : 2 * SIZE]
    captions = {image: {tuple(text) for other, text in seen if other == image} for image in images}
    assert sum(len(texts) for texts in captions.values()) > 2 * SIZE


@pytest.mark.parametrize("kill", [0, 5, 13])
def test_a_resumed_run_sees_the_same_pairs(stored, kill):
    whole = pairs(EmbeddingData(stored, 8, seed=1, streams=2).dataset(), 20)
    first = EmbeddingData(stored, 8, seed=1, streams=2)
    before = pairs(first.dataset(), kill)
    second = EmbeddingData(stored, 8, seed=1)
    second.restore(merge_states([first.state(kill)]))
    assert before + pairs(second.dataset(), 20 - kill) == whole
    third = EmbeddingData(stored, 8, seed=1)
    third.restore(second.state(15))
    assert pairs(third.dataset(), 5) == whole[15 * 8 :]


@pytest.mark.parametrize(("workers", "replicas"), [(1, 1), (1, 4), (2, 2), (2, 4)])
def test_replicas_and_workers_share_a_global_batch(stored, workers, replicas):
    whole = pairs(EmbeddingData(stored, 8, seed=2, streams=2).dataset(), 6)
    parts = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, replicas)
        rows = pairs(EmbeddingData(stored, 8, seed=2, streams=2).dataset(context), 6 * replicas // workers)
        parts.append([rows[i : i + 8 // workers] for i in range(0, len(rows), 8 // workers)])
    joined = [row for step in zip(*parts, strict=True) for part in step for row in part]
    assert joined == whole


def test_static_shapes_and_types(stored):
    data = EmbeddingData(stored, 8)
    assert data.dataset().element_spec == {
        "image_embedding": tf.TensorSpec([8, DIM], tf.float32),
        "text": tf.TensorSpec([8, 24], tf.int32),
    }


def test_texts_can_be_corrupted(stored):
    corrupt = Corruption("text", 0.5, vocab_size=60)
    clean = pairs(EmbeddingData(stored, 8).dataset(), 10)
    noisy = pairs(EmbeddingData(stored, 8, corruption=corrupt).dataset(), 10)
    assert [image for image, _ in clean] == [image for image, _ in noisy]
    assert 20 < sum(a != b for (_, a), (_, b) in zip(clean, noisy, strict=True)) < 60


def test_a_mirrored_strategy_gets_each_replica_its_part(stored):
    strategy = two_replicas()
    distributed = strategy.distribute_datasets_from_function(EmbeddingData(stored, 8, seed=2).dataset)
    parts = strategy.experimental_local_results(next(iter(distributed))["text"])
    expected = [text for _, text in pairs(EmbeddingData(stored, 8, seed=2).dataset(), 1)]
    assert np.concatenate([part.numpy() for part in parts]).tolist() == expected


def test_errors_name_the_value(stored):
    with pytest.raises(ValueError, match="Received: 0"):
        EmbeddingData(stored, 0)
    with pytest.raises(ValueError, match="seed"):
        EmbeddingData(stored, 8, seed=-1)
    with pytest.raises(ValueError, match="multiple"):
        EmbeddingData(stored, 9, streams=2).dataset()
    data = EmbeddingData(stored, 8)
    with pytest.raises(ValueError, match="position is known"):
        data.state(0)
    data.dataset()
    for change in ({"seed": 9}, {"fingerprint": "other"}, {"version": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            EmbeddingData(stored, 8).restore({**data.state(3), **change})
    with pytest.raises(ValueError, match="streams"):
        EmbeddingData(stored, 8, streams=4).restore(data.state(3))
