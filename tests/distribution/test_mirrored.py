"""Under MirroredStrategy the loss, its gradients and training equal one device on the global batch."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from siglip_tf import losses
from siglip_tf.distribution import current_ring
from siglip_tf.losses.all_pairs import Total, visit_all_pairs
from tests.distribution import settings
from tests.losses import dense, test_pair_labels
from tests.models import small
from tests.replicas import mirrored

T, B = np.float32(np.log(10)), np.float32(-10)


def per_replica(strategy, *arrays):
    """Each array cut evenly over the replicas."""

    def distribute(array):
        parts = np.split(np.asarray(array), strategy.num_replicas_in_sync)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    return [distribute(array) for array in arrays]


def joined(strategy, value):
    return np.concatenate([np.atleast_1d(v) for v in strategy.experimental_local_results(value)])


@pytest.mark.parametrize(
    ("replicas", "loss"),
    [(3, "sigmoid"), (2, "softmax")]
    + [pytest.param(d, loss, marks=pytest.mark.slow) for d in (1, 2, 4, 8) for loss in ("sigmoid", "softmax")],
)
def test_loss_and_gradients_equal_dense_float64(rng, replicas, loss):
    x, y = dense.pairs(rng, replicas * 7, alike=0.4)
    strategy = mirrored(replicas)
    scalars = (T, B) if loss == "sigmoid" else (T,)

    def step(x, y):
        inputs = [x, y, *(tf.constant(s) for s in scalars)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = getattr(losses, f"{loss}_loss")(*inputs, tile_size=5)
        return [value, *tape.gradient(value, inputs)]

    run = tf.function(lambda x, y: strategy.run(step, (x, y)), autograph=False)
    value, dx, dy, *shares = [joined(strategy, v) for v in run(*per_replica(strategy, x, y))]
    expected = getattr(dense, loss)(x, y, *scalars)
    found = [value.sum(), dx, dy, *(share.sum() for share in shares)]
    for got, right in zip(found, expected, strict=True):
        assert dense.relative_error(got, right) < 1e-6


@pytest.mark.parametrize(
    ("replicas", "loss", "seed"),
    [(2, "sigmoid", 0)]
    + [
        pytest.param(replicas, loss, seed, marks=pytest.mark.slow)
        for replicas in (1, 2, 3, 5)
        for loss in ("sigmoid", "softmax")
        for seed in range(3)
    ],
)
def test_groups_that_cross_replicas_equal_dense_float64(rng, replicas, loss, seed):
    x, y = dense.pairs(rng, 30, alike=0.4)
    random = np.random.default_rng(seed)
    group, ids = random.integers(0, 9, 30), random.integers(0, 3, (30, 2)).astype(np.int32)
    same_group, equal_captions = (("positive", "ignore"), ("ignore", "positive"), ("ignore", "ignore"))[seed]
    strategy = mirrored(replicas)
    scalars = (T, B) if loss == "sigmoid" else (T,)

    def step(x, y, group, ids):
        inputs = [x, y, *(tf.constant(s) for s in scalars)]
        options = {"group": group, "same_group": same_group, "token_ids": ids, "equal_captions": equal_captions}
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = getattr(losses, f"{loss}_loss")(*inputs, tile_size=4, **options)
        return [value, *tape.gradient(value, inputs)]

    run = tf.function(lambda *parts: strategy.run(step, parts), autograph=False)
    value, dx, dy, *shares = [joined(strategy, v) for v in run(*per_replica(strategy, x, y, group, ids))]
    masks = test_pair_labels.masks(group, same_group, [tuple(row) for row in ids], equal_captions)
    expected = test_pair_labels.autodiff(loss, x, y, *masks, T, B)
    for got, right in zip([value.sum(), dx, dy, *(share.sum() for share in shares)], expected, strict=True):
        assert dense.relative_error(got, right) < 1e-6


@pytest.mark.parametrize(
    ("replicas", "tile_size"),
    [(1, 4), (2, 3), (3, 5)] + [pytest.param(d, tile, marks=pytest.mark.slow) for d, tile in ((4, 5), (8, 1))],
)
def test_each_pair_is_visited_exactly_once(replicas, tile_size):
    n = replicas * 5
    strategy = mirrored(replicas)

    def count(ids):
        def tile(images, texts, diagonal):
            image_ids, text_ids = images[1], texts[0]
            if diagonal:
                tf.debugging.assert_equal(image_ids, text_ids)
            to_images = tf.tile(tf.reduce_sum(tf.one_hot(text_ids, n), 0)[None], (image_ids.shape[0], 1))
            to_texts = tf.tile(tf.reduce_sum(tf.one_hot(image_ids, n), 0)[None], (text_ids.shape[0], 1))
            return [to_images], [to_texts]

        total = [Total((n,))]
        floats = tf.zeros(ids.shape)  # totals take the dtype of the first
        (by_images,), (by_texts,) = visit_all_pairs(current_ring(), [floats, ids], [ids], total, total, tile, tile_size)
        return by_images, by_texts

    run = tf.function(lambda ids: strategy.run(count, (ids,)), autograph=False)
    for counts in run(*per_replica(strategy, np.arange(n, dtype=np.int32))):
        np.testing.assert_array_equal(joined(strategy, counts), np.ones((n, n)))


def test_only_neighbours_exchange_and_only_chunks(rng):
    """The graph of the ring holds no gathered tensor: nothing in it is larger than one replica's part."""
    strategy, b, d = mirrored(3), 6, 24
    parts = per_replica(strategy, dense.unit(rng, 3 * b, d), dense.unit(rng, 3 * b, d))

    def step(x, y):
        return losses.sigmoid_loss(x, y, T, B, tile_size=4)

    graph = tf.function(lambda x, y: strategy.run(step, (x, y)), autograph=False).get_concrete_function(*parts).graph
    largest = max(
        (t.shape.num_elements() or 0) for op in graph.get_operations() for t in op.outputs if t.shape.is_fully_defined()
    )
    assert largest <= b * d
    assert not any("Gather" in op.type and op.type != "GatherV2" for op in graph.get_operations())


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["hardest", "random"])
def test_masked_negatives_do_not_depend_on_the_number_of_replicas(rng, keep):
    x, y = dense.pairs(rng, 24)
    found = []
    for replicas in (1, 2):
        strategy = mirrored(replicas)

        def step(x, y):
            result = losses.sigmoid_loss_and_gradients(
                current_ring(), x, y, tf.constant(T), tf.constant(B), 12, losses.Negatives(keep, 2.5), 7
            )
            return result.loss, result.text_gradient

        run = tf.function(lambda x, y, strategy=strategy, step=step: strategy.run(step, (x, y)), autograph=False)
        loss, dy = run(*per_replica(strategy, x, y))
        found.append((joined(strategy, loss).sum(), joined(strategy, dy)))
    assert dense.relative_error(found[0][0], found[1][0]) < 1e-6
    assert dense.relative_error(found[0][1], found[1][1]) < 1e-5


def trained(strategy, optimizer, **options):
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = small.model(**options)
        model.compile(settings.optimizer(optimizer))
    history = model.fit(small.dataset(steps=6), verbose=0).history
    return [w.numpy() for w in model.trainable_variables], history, model


@functools.cache
def trained_by(optimizer, replicas):
    return trained(tf.distribute.get_strategy() if replicas == 1 else mirrored(replicas), optimizer)


@pytest.mark.parametrize(
    ("optimizer", "replicas"),
    [(o, d) for o in ("adamw", "lion", "adafactor") for d in (2, 4, 8)],
)
@pytest.mark.slow
def test_six_steps_equal_one_device(optimizer, replicas):
    expected, alone, _ = trained_by(optimizer, 1)
    found, together, _ = trained_by(optimizer, replicas)
    assert alone["gradient_norm"][0] > 0.5, "clipping is on"
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"microbatch_size": 2, "dropout": 0.2, "remat": "block"}, {"loss": "softmax"}],
    ids=str,
)
def test_options_equal_one_device_too(options):
    expected, _, _ = trained(tf.distribute.get_strategy(), "adamw", **options)
    found, _, _ = trained(mirrored(2), "adamw", **options)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_evaluate_and_predict_equal_one_device():
    models = [trained_by("adamw", replicas)[2] for replicas in (1, 2)]
    losses_found = [m.evaluate(small.dataset(), verbose=0, return_dict=True) for m in models]
    for name, value in losses_found[0].items():
        assert abs(losses_found[1][name] / value - 1) < 1e-4
    embeddings = [m.predict(small.dataset(), verbose=0)["text_embedding"] for m in models]
    np.testing.assert_allclose(*embeddings, atol=1e-5)


def test_errors_name_what_is_wrong():
    strategy = mirrored(2)
    with strategy.scope():
        model = small.model()
        with pytest.raises(ValueError, match="jit_compile=False under MirroredStrategy"):
            model.compile("adamw", jit_compile=True)
        with pytest.raises(ValueError, match="ema_overwrite_frequency=None under a strategy"):
            model.compile(keras.optimizers.AdamW(use_ema=True, ema_overwrite_frequency=2))
    with pytest.raises(ValueError, match="made inside `strategy.scope"):
        model.compile(keras.optimizers.AdamW())
    with strategy.scope(), pytest.raises(RuntimeError, match="inside `strategy.run"):
        losses.sigmoid_loss(tf.ones((2, 3)), tf.ones((2, 3)), T, B)
