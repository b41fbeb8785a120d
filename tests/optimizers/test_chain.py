"""AdamW, Lion and the whole chain against optax chains put together as the reference implementation does."""

import contextlib

import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
import tensorflow as tf

from siglip_tf.optimizers import (
    AdamW,
    Cosine,
    Lion,
    ParameterGroup,
    ReferenceChain,
    ScalingViTAdafactor,
    freeze,
    gradient_tape,
)
from tests.replicas import two_replicas

SHAPES = {
    "tower/dense/kernel": (40, 6, 33),
    "tower/dense/bias": (33,),
    "tower/position_embedding": (1, 5, 64),
    "head/kernel": (33, 8),
    "log_temperature": (),
}


def variables(rng):
    made = {}
    for path, shape in SHAPES.items():
        scope, _, name = path.rpartition("/")
        with contextlib.ExitStack() as stack:
            for part in scope.split("/") if scope else ():
                stack.enter_context(keras.name_scope(part))
            made[path] = keras.Variable((0.1 * rng.normal(size=shape)).astype("float32"), name=name)
        assert made[path].path == path
    return made


def gradients(rng, steps, size=1.0):
    return [{k: (size * rng.normal(size=s)).astype("float32") for k, s in SHAPES.items()} for _ in range(steps)]


def optax_direction(optimizer):
    if isinstance(optimizer, AdamW):
        return optax.scale_by_adam(optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)
    if isinstance(optimizer, Lion):
        return optax.scale_by_lion(optimizer.beta_1, optimizer.beta_2)
    return optax.chain(
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=32,
            epsilon=1e-30,
            decay_rate_fn=lambda i, e: jnp.minimum(optimizer.beta_2_cap, 1 - (jnp.asarray(i, jnp.float32) + 1) ** -e),
        ),
        optax.ema(optimizer.beta_1, debias=False, accumulator_dtype=jnp.dtype(optimizer.momentum_dtype)),
    )


def optax_chain(optimizer, schedule, multipliers, decays):
    """Clip, direction, rate, multipliers, decay, schedule, -1: with masks, as big_vision's `make`."""

    def masked(transform, path):
        return optax.masked(transform, {key: key == path for key in SHAPES})

    return optax.chain(
        optax.clip_by_global_norm(optimizer.global_clipnorm),
        optax_direction(optimizer),
        optax.scale(float(optimizer.learning_rate)),
        *[masked(optax.scale(value), path) for path, value in multipliers.items()],
        *[masked(optax.add_decayed_weights(value), path) for path, value in decays.items()],
        optax.scale_by_schedule(schedule),
        optax.scale(-1.0),
    )


class AdamWAsOnTPU(AdamW):
    """AdamW by the formula, as under TPUStrategy, instead of the fused kernel."""

    update_step = ReferenceChain.update_step


OPTIMIZERS = [
    lambda **k: AdamW(learning_rate=1e-3, weight_decay=1e-2, **k),
    lambda **k: Lion(learning_rate=1e-4, weight_decay=1e-2, **k),
    lambda **k: ScalingViTAdafactor(learning_rate=1e-3, weight_decay=1e-2, momentum_dtype="float32", **k),
]
NAMES = ["AdamW", "Lion", "ScalingViTAdafactor"]


@pytest.mark.parametrize(
    "make",
    [*OPTIMIZERS, lambda **k: AdamWAsOnTPU(learning_rate=1e-3, weight_decay=1e-2, **k)],
    ids=[*NAMES, "AdamWAsOnTPU"],
)
def test_the_whole_chain_equals_optax(make, rng):
    weights = variables(rng)
    optimizer = make(
        schedule=Cosine(total_steps=50, warmup_steps=5),
        global_clipnorm=1.0,
        groups=[
            ParameterGroup("tower/dense", learning_rate_multiplier=0.1, decay_multiplier=0.5),
            {"pattern": "^head/", "learning_rate_multiplier": 3.0},
        ],
    )
    optimizer.build(list(weights.values()))
    step = tf.function(optimizer.apply)
    warm = optax.linear_schedule(0.0, 1.0, 5)
    chain = optax_chain(
        optimizer,
        lambda count: warm(count) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((count - 5) / 45, 0, 1))),
        {"tower/dense/kernel": 0.1, "tower/dense/bias": 0.1, "head/kernel": 3.0},
        {"tower/dense/kernel": 0.5e-2, "head/kernel": 1e-2},
    )
    expected = {k: jnp.asarray(v.numpy()) for k, v in weights.items()}
    state = chain.init(expected)
    for i, grads in enumerate(gradients(rng, 20, size=0.05)):
        before = {k: v.numpy() for k, v in weights.items()}
        step([tf.constant(grads[k]) for k in SHAPES])
        updates, state = chain.update({k: jnp.asarray(g) for k, g in grads.items()}, state, expected)
        expected = optax.apply_updates(expected, updates)
        if i in (0, 7, 19):
            squares = dict(zip(SHAPES, optimizer.update_sum_of_squares.numpy(), strict=True))
            for k, update in updates.items():
                exact = float(jnp.sum(jnp.square(update)))
                assert squares[k] == pytest.approx(exact, rel=1e-3, abs=1e-12)
                assert np.sum((weights[k].numpy() - before[k]) ** 2) == pytest.approx(exact, rel=1e-2, abs=1e-12)
    for k in SHAPES:
        np.testing.assert_allclose(weights[k].numpy(), np.asarray(expected[k]), rtol=0, atol=1e-6, err_msg=k)


def test_adamw_equals_optax_adamw_where_the_two_conventions_meet(rng):
    weights = variables(rng)
    optimizer = AdamW(learning_rate=1e-3, weight_decay=1e-3 * 0.1, decay_pattern=".", global_clipnorm=None)
    optimizer.build(list(weights.values()))
    chain = optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
    expected = {k: jnp.asarray(v.numpy()) for k, v in weights.items()}
    state = chain.init(expected)
    for grads in gradients(rng, 20, size=1e-7):  # small enough for epsilon to matter
        optimizer.apply([tf.constant(grads[k]) for k in SHAPES])
        updates, state = chain.update({k: jnp.asarray(g) for k, g in grads.items()}, state, expected)
        expected = optax.apply_updates(expected, updates)
    for k in SHAPES:
        np.testing.assert_allclose(weights[k].numpy(), np.asarray(expected[k]), rtol=0, atol=1e-6)


def test_lion_equals_optax_lion(rng):
    weights = variables(rng)
    optimizer = Lion(learning_rate=1e-4, weight_decay=1e-4 * 0.3, beta_2=0.99, decay_pattern=".", global_clipnorm=None)
    optimizer.build(list(weights.values()))
    chain = optax.lion(1e-4, b1=0.9, b2=0.99, weight_decay=0.3)
    expected = {k: jnp.asarray(v.numpy()) for k, v in weights.items()}
    state = chain.init(expected)
    for grads in gradients(rng, 50):
        optimizer.apply([tf.constant(grads[k]) for k in SHAPES])
        updates, state = chain.update({k: jnp.asarray(g) for k, g in grads.items()}, state, expected)
        expected = optax.apply_updates(expected, updates)
    for k in SHAPES:
        np.testing.assert_allclose(weights[k].numpy(), np.asarray(expected[k]), rtol=0, atol=1e-6)


def test_only_kernels_decay_and_the_learning_rate_does_not_scale_it(rng):
    weights = variables(rng)
    optimizer = AdamW(learning_rate=1e-30, weight_decay=0.25)
    optimizer.build(list(weights.values()))
    before = {k: v.numpy() for k, v in weights.items()}
    optimizer.apply([tf.ones(s) for s in SHAPES.values()])
    for k, v in weights.items():
        expected = before[k] * (0.75 if k.endswith("kernel") else 1.0)
        np.testing.assert_allclose(v.numpy(), expected, rtol=1e-6)


def small_model():
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Embedding(50, 8, name="token_embedding"),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="tanh", name="hidden"),
            keras.layers.Dense(4, name="head"),
        ]
    )


@pytest.mark.parametrize(
    "make", [OPTIMIZERS[0], *(pytest.param(make, marks=pytest.mark.slow) for make in OPTIMIZERS[1:])], ids=NAMES
)
def test_one_step_is_the_same_when_xla_compiles_it(make, rng):
    results = []
    for jit_compile in (False, True):
        weights = variables(np.random.default_rng(2))
        optimizer = make()
        optimizer.build(list(weights.values()))
        step = tf.function(optimizer.apply, jit_compile=jit_compile)
        for grads in gradients(np.random.default_rng(3), 3):
            step([tf.constant(grads[k]) for k in SHAPES])
        results.append({k: v.numpy() for k, v in weights.items()})
    for k in SHAPES:
        np.testing.assert_allclose(results[0][k], results[1][k], rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=NAMES)
def test_works_in_fit_and_comes_back_from_its_config(make, rng, tmp_path):
    model = small_model()
    groups = [ParameterGroup("hidden", decay_multiplier=0.0), ParameterGroup("head", learning_rate_multiplier=2.0)]
    optimizer = make(schedule=Cosine(40, 4), groups=groups)
    model.compile(optimizer=optimizer, loss="mse")
    ids = rng.integers(0, 50, size=(64, 12))
    target = rng.normal(size=(64, 4)).astype("float32")
    history = model.fit(ids, target, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is type(optimizer)
    assert loaded.optimizer.get_config() == optimizer.get_config()
    for mine, theirs in zip(optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    model.fit(ids, target, batch_size=16, epochs=1, shuffle=False, verbose=0)
    loaded.fit(ids, target, batch_size=16, epochs=1, shuffle=False, verbose=0)
    for mine, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


def test_repeated_token_ids_count_as_their_sum(rng):
    table = keras.Variable(rng.normal(size=(6, 4)).astype("float32"), name="embeddings")
    dense_table = keras.Variable(table.numpy(), name="embeddings")
    ids = tf.constant([1, 1, 1, 3])
    values = tf.constant(rng.normal(size=(4, 4)).astype("float32"))
    sparse, dense = (AdamW(weight_decay=0.0, global_clipnorm=None) for _ in range(2))
    for _ in range(3):
        sparse.apply([tf.IndexedSlices(values, ids, tf.constant([6, 4]))], [table])
        dense.apply([tf.math.unsorted_segment_sum(values, ids, 6)], [dense_table])
    np.testing.assert_allclose(table.numpy(), dense_table.numpy(), atol=1e-7)


@pytest.mark.parametrize("make", OPTIMIZERS, ids=NAMES)
def test_two_replicas_equal_one_device_with_clipping_after_the_sum(make, rng):
    """Gradients of opposite sign on the two replicas: clipping before the sum would give another result."""
    grads = gradients(rng, 6, size=2.0)
    noise = gradients(rng, 6, size=5.0)
    alone = variables(np.random.default_rng(1))
    optimizer = make(schedule=Cosine(12, 2))
    optimizer.build(list(alone.values()))
    for g in grads:
        optimizer.apply([tf.constant(g[k]) for k in SHAPES])

    strategy = two_replicas()
    with strategy.scope():
        shared = variables(np.random.default_rng(1))
        sharded = make(schedule=Cosine(12, 2))
        sharded.build(list(shared.values()))

    @tf.function
    def step(g, n):
        def replica():
            sign = 1.0 - 2.0 * tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float32)
            sharded.apply([g[k] / 2 + sign * n[k] for k in SHAPES])

        strategy.run(replica)

    for g, n in zip(grads, noise, strict=True):
        step({k: tf.constant(v) for k, v in g.items()}, {k: tf.constant(v) for k, v in n.items()})
    for k in SHAPES:
        np.testing.assert_allclose(shared[k].numpy(), alone[k].numpy(), rtol=0, atol=1e-6, err_msg=k)
        copies = [v.numpy() for v in strategy.experimental_local_results(shared[k].value)]
        np.testing.assert_array_equal(copies[0], copies[1])
    np.testing.assert_allclose(
        sharded.update_sum_of_squares.numpy(), optimizer.update_sum_of_squares.numpy(), rtol=1e-3, atol=1e-12
    )


def test_gradients_summed_by_the_caller_are_not_summed_again(rng):
    strategy = two_replicas()
    with strategy.scope():
        weight = keras.Variable(np.zeros(3, "float32"), name="kernel")
        optimizer = Lion(learning_rate=1.0, global_clipnorm=None, weight_decay=0.0, beta_1=0.0)
        optimizer.build([weight])
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.constant([1.0, -2.0, 4.0])]))

    step()
    np.testing.assert_allclose(optimizer._momentums[0].numpy(), np.array([1.0, -2.0, 4.0]) * 0.05, rtol=1e-6)


def test_a_nan_gradient_is_not_hidden_by_clipping():
    weight = keras.Variable(np.ones(3, "float32"), name="kernel")
    optimizer = AdamW()
    optimizer.apply([tf.constant([1.0, np.inf, 0.0])], [weight])
    assert np.isnan(weight.numpy()).all()


def test_a_frozen_part_gets_no_gradient_and_no_state(rng):
    model = small_model()
    groups = [ParameterGroup("token_embedding|hidden", freeze=True)]
    optimizer = AdamW(groups=groups)
    with pytest.raises(ValueError, match=r"frozen group.*freeze\(model, groups\)"):
        optimizer.build(model.trainable_variables)

    frozen = freeze(model, groups)
    assert [path.split("/")[-2] for path in frozen] == ["token_embedding", "hidden", "hidden"]
    optimizer = AdamW(groups=groups)
    model.compile(optimizer=optimizer, loss="mse")
    before = [v.numpy() for v in model.variables]
    ids = rng.integers(0, 50, size=(16, 12))
    model.fit(ids, rng.normal(size=(16, 4)), epochs=2, verbose=0)
    changed = [not np.array_equal(b, v.numpy()) for b, v in zip(before, model.variables, strict=True)]
    assert changed == [False, False, False, True, True]
    assert len(optimizer._momentums) == 2


def test_the_backward_pass_of_a_frozen_part_is_not_even_traced():
    model = small_model()
    freeze(model, [ParameterGroup("token_embedding|hidden", freeze=True)])

    @tf.function
    def step(ids):
        with gradient_tape(model.trainable_variables) as tape:
            loss = tf.reduce_sum(model(ids) ** 2)
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    graph = step.get_concrete_function(tf.zeros((16, 12), tf.int32)).graph
    names = [op.name for op in graph.get_operations() if "gradient_tape" in op.name]
    assert any("/head" in name for name in names)
    assert not any("/hidden" in name or "/token_embedding" in name for name in names)

    strategy = two_replicas()
    with strategy.scope():
        weight = keras.Variable(3.0)

    @tf.function
    def square():
        with gradient_tape([weight]) as tape:
            loss = weight.value**2
        return tape.gradient(loss, weight.value)

    assert [float(g) for g in strategy.run(square).values] == [6.0, 6.0]


def test_misspelt_patterns_are_named():
    model = small_model()
    with pytest.raises(ValueError, match="'tokenembedding' matches none of 5 variables"):
        AdamW(groups=[ParameterGroup("tokenembedding")]).build(model.trainable_variables)
    with pytest.raises(ValueError, match="'imgae/' matches none"):
        freeze(model, [ParameterGroup("imgae/", freeze=True)])
    with pytest.raises(ValueError, match="freeze every variable"):
        freeze(model, [ParameterGroup(".", freeze=True)])
    with pytest.raises(ValueError, match="not a regular expression"):
        ParameterGroup("(")
    with pytest.raises(ValueError, match="learning_rate_multiplier > 0"):
        ParameterGroup("a", learning_rate_multiplier=0.0)
    with pytest.raises(ValueError, match="decay_multiplier >= 0"):
        ParameterGroup("a", decay_multiplier=-1.0)
    with pytest.raises(ValueError, match="global_clipnorm"):
        AdamW(global_clipnorm=0.0)
    with pytest.raises(ValueError, match=r"schedule.*Cosine"):
        Lion(schedule=3)


def test_a_chain_needs_a_direction():
    with pytest.raises(TypeError, match="abstract method '?direction"):
        ReferenceChain()
