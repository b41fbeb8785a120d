"""What `fit` is given: every source of batches trains or is refused in a sentence before the first update."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf.data import ImagePreprocessing
from tests.losses import dense
from tests.models import small
from tests.replicas import mirrored


class Batches(keras.utils.PyDataset):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        return small.batch(self.sizes[i], seed=i)


def compiled(eagerly=False, **options):
    model = small.model(**options)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=eagerly)
    return model


def ragged(*sizes):
    """A data set of batches of these sizes."""
    batches = [small.batch(size, seed=i) for i, size in enumerate(sizes)]
    spec = {key: tf.TensorSpec((None, *value.shape[1:]), value.dtype) for key, value in batches[0].items()}
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)


def weights(model):
    return [v.numpy() for v in model.trainable_variables]


def test_pydataset_generator_and_arrays_train_as_a_data_set_does():
    batches = [small.batch(8, seed=i) for i in range(2)]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    sources = [
        lambda: tf.data.Dataset.from_tensor_slices(joined).batch(8, drop_remainder=True),
        lambda: Batches([8, 8]),
        lambda: iter(batches),
        lambda: ((b,) for b in batches),
        lambda: joined,
    ]
    model = compiled(eagerly=True)
    start, found = model.get_weights(), []
    for source in sources:
        model.set_weights(start)
        model.optimizer.iterations.assign(0)
        size = {"batch_size": 8} if source() is joined else {}
        model.fit(source(), verbose=0, shuffle=False, steps_per_epoch=2, **size)
        found.append(weights(model))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
    assert int(model.optimizer.iterations) == 2
    # 30 examples at 8, shuffled: three whole batches; the means of validation are those of `evaluate`.
    arrays, held_out = small.batch(30), small.batch(12, seed=9)
    history = model.fit(arrays, batch_size=8, validation_data=held_out, validation_batch_size=4, verbose=0).history
    assert int(model.optimizer.iterations) == 2 + 3
    np.testing.assert_allclose(
        history["val_loss"], model.evaluate(held_out, batch_size=4, verbose=0, return_dict=True)["loss"], rtol=1e-6
    )


def test_what_does_not_fit_is_said_before_the_first_update():
    model, arrays = compiled(eagerly=True), small.batch(30)
    pixels = {**small.batch(8), "image": (small.batch(8)["image"] + 1) * 127.5}
    ids = {**small.batch(8), "text": small.batch(8)["text"] + 33}
    negative = {**small.batch(8), "text": small.batch(8)["text"] - 3}
    nan = {**small.batch(8), "image": np.full((8, 16, 16, 3), np.nan, np.float32)}
    cases = [
        (lambda: model.fit(arrays, batch_size=8, shuffle=False), "leaves 6. batch_size=6 fits"),
        (lambda: model.fit(iter([small.batch(8) | {"mask": np.ones(8, bool)}])), "no 'mask' in training"),
        (lambda: model.evaluate(iter([small.batch(8), small.batch(9)])), "9 examples where the first batch had 8"),
        (lambda: model.evaluate(tf.data.Dataset.from_tensor_slices(arrays).batch(8).take(0)), "one that is empty"),
        (lambda: model.evaluate(ragged(8, 9)), "9 examples where the first batch had 8"),
        (lambda: model.evaluate(small.batch(8) | {"mask": np.ones(8)}), "'mask' as bool .batch,.. Received: float64"),
        (lambda: model.fit(Batches([8, 6])), "first batch has 8 examples and whose last has 6"),
        (lambda: model.fit(iter([])), "yields nothing"),
        (lambda: model.fit(arrays, np.zeros(30)), "Expected no targets and no weights.*'y'"),
        (lambda: model.fit(arrays, sample_weight=np.zeros(30)), "sample_weight"),
        (lambda: model.fit(arrays, class_weight={0: 1.0}), "class_weight"),
        (lambda: model.fit(small.dataset(), batch_size=8), "no batch_size for data that comes in batches"),
        (lambda: model.fit({**arrays, "text": arrays["text"][:20]}), "arrays of as many examples"),
        (lambda: model.fit(iter([{**small.batch(8), "sample_weight": np.ones(8)}])), "no weights of examples"),
    ]
    for values, message in (
        (pixels, "Expected images in .-1, 1.. Received: a value of magnitude 25"),
        (ids, r"token ids in \[0, 40\). Received: 7"),
        (negative, r"token ids in \[0, 40\). Received: -"),
        (nan, "Received: a value of magnitude nan"),
    ):
        data = tf.data.Dataset.from_tensors(values)
        cases += [
            (lambda data=data: model.fit(data.repeat(3)), message),
            (lambda data=data: model.evaluate(data), message),
            (lambda values=values: model.fit(values), message),
            (lambda values=values: model.fit(iter([values])), message),
        ]
    before = weights(model)
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    for a, b in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=True)
    with pytest.raises(ValueError, match=r"token ids in \[0, 40\). Received: 7"):
        model.fit(tf.data.Dataset.from_tensors(ids))


def test_replicas_that_do_not_divide_a_batch_are_named():
    with mirrored(3).scope():
        model = compiled()
    for make in (small.dataset, lambda n: Batches([n]), lambda n: iter([small.batch(n)]), small.batch):
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="that 3 replicas divide. Received: batches of 8. 6 or 9 would do"):
                call(make(8))


MASKED = [
    {},
    {"loss": "softmax"},
    {"negatives": {"keep": "hardest", "ratio": 2.0}, "tile_size": 3},
    {"same_group": "positive", "equal_captions": "ignore"},
    {"loss": "softmax", "same_group": "ignore"},
]


def in_parts():
    """19 examples in batches of 8, 8 and 3, some of one group and two of one caption."""
    examples = small.batch(19)
    examples["text"][17] = examples["text"][16]
    examples["group"] = np.arange(19) // 2
    return examples, [{key: value[i : i + 8] for key, value in examples.items()} for i in (0, 8, 16)]


def mean_of(model, parts):
    """The figures of batches, each evaluated alone, weighted by their examples."""
    found = [model.evaluate(tf.data.Dataset.from_tensors(part), verbose=0, return_dict=True) for part in parts]
    weights = [len(part["text"]) for part in parts]
    return {key: np.average([figures[key] for figures in found], weights=weights) for key in found[0]}


def test_a_smaller_last_batch_of_every_source_counts_with_its_examples():
    examples, parts = in_parts()
    filled = [{key: np.resize(value, (8, *value.shape[1:])) for key, value in part.items()} for part in parts]
    filled = [part | {"mask": np.arange(8) < size} for part, size in zip(filled, (8, 8, 3), strict=True)]

    class Parts(Batches):
        def __getitem__(self, i):
            return parts[i]

    model = compiled(eagerly=True, same_group="negative")
    expected = mean_of(model, parts)
    embeddings = [(model.encode_image(part["image"]), model.encode_text(part["text"])) for part in parts]
    losses = [dense.sigmoid(*pair, model.log_temperature.numpy(), model.bias.numpy())[0] for pair in embeddings]
    np.testing.assert_allclose(expected["loss"], np.average(losses, weights=[8, 8, 3]), rtol=1e-5)
    for data, options in (
        (tf.data.Dataset.from_tensor_slices(examples).batch(8), {}),
        (tf.data.Dataset.from_tensor_slices(examples).batch(8).map(lambda batch: (batch,)), {}),
        (examples, {"batch_size": 8}),
        (iter(parts), {"steps": 3}),
        (iter(filled), {"steps": 3}),
        (Parts([8, 8, 3]), {}),
    ):
        found = model.evaluate(data, verbose=0, return_dict=True, **options)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("options", MASKED, ids=str)
@pytest.mark.slow
def test_a_smaller_last_batch_under_a_strategy(options):
    """As on one device, which sees the last batch without any mask."""
    examples, parts = in_parts()
    alone = compiled(eagerly=True, **options)
    with mirrored(2).scope():
        model = compiled(**options)
    model.set_weights(alone.get_weights())
    found = model.evaluate(tf.data.Dataset.from_tensor_slices(examples).batch(8), verbose=0, return_dict=True)
    assert found == pytest.approx(mean_of(alone, parts), rel=2e-5, abs=2e-6)


def test_uint8_pixels_are_normalized_in_the_graph_to_the_same_bits():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    floats = ImagePreprocessing.normalize(pixels).numpy()
    np.testing.assert_allclose(floats, pixels.astype(np.float64) / 127.5 - 1, rtol=0, atol=1e-7)
    text = small.batch(8)["text"]
    model = compiled(eagerly=True)
    np.testing.assert_array_equal(model.encode_image(pixels), model.encode_image(floats))
    start, found = model.get_weights(), []
    for images in (pixels, floats):
        model.set_weights(start)
        model.fit(tf.data.Dataset.from_tensors({"image": images, "text": text}), verbose=0)
        found.append(weights(model))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_of_several_captions_is_drawn_anew_in_every_step():
    captions = np.stack([small.batch(16, seed=i)["text"] for i in range(3)], 1)
    images, drawn = small.batch(16)["image"], []
    model = compiled(eagerly=True)

    def encode(side, value, training=True):
        if side == "text":
            drawn.append(value.numpy())
        return original(side, value, training)

    original, model._encode = model._encode, encode
    model.fit(tf.data.Dataset.from_tensors({"image": images, "text": captions}).repeat(4), verbose=0)
    steps = np.array(drawn)
    which = (steps[:, :, None] == captions[None]).all(-1)
    assert np.all(which.sum(-1) == 1)
    chosen = which.argmax(-1)
    assert set(chosen.ravel()) == {0, 1, 2} and len({tuple(row) for row in chosen}) == 4
    first = {"image": images, "text": captions[:, 0]}
    model = compiled(eagerly=True)
    found = [
        model.evaluate(tf.data.Dataset.from_tensors({**first, "text": text}), verbose=0)
        for text in (captions, captions[:, 0])
    ]
    assert found[0] == found[1]
