"""Made the big_vision files here: its own models, its own parameter names, its own loaders, on CPU in float32.

    git clone https://github.com/google-research/big_vision
    PYTHONPATH=big_vision python make_big_vision.py $(git -C big_vision rev-parse HEAD)

Needs flax and jax. The versions used stand in `big_vision_outputs.npz`, key "made_with". The tests draw the inputs
again from the seed below; the outputs are what big_vision's `two_towers` and `vit` computed.
"""

import sys
from pathlib import Path

import big_vision.utils as u
import flax
import jax
import jax.numpy as jnp
import numpy as np
from big_vision.models import vit
from big_vision.models.proj.image_text import text_transformer, two_towers

HERE = Path(__file__).parent
IMAGE = {"width": 12, "depth": 3, "mlp_dim": 20, "num_heads": 3, "patch_size": (5, 5)}
TEXT = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 4, "vocab_size": 37}

rng = np.random.default_rng(7)
images = rng.uniform(-1, 1, (2, 17, 17, 3)).astype(np.float32)
texts = rng.integers(0, 37, (2, 7)).astype(np.int32)
outputs = {}


def randomised(tree, seed):
    """Parameters away from their initial values, so that a lost bias or scale shows."""
    noise = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: np.asarray(p + 0.1 * noise.normal(size=p.shape), np.float32), flax.core.unfreeze(tree)
    )


def save(name, params):
    """As big_vision's notebooks write their npz files."""
    names_and_vals, _ = u.tree_flatten_with_names(params)
    np.savez(HERE / name, **dict(names_and_vals))


def two_tower(name, *, image=None, text=None, out_dim=12, saved=lambda params: params, load=False):
    image, text = {**IMAGE, "pool_type": "map", **(image or {})}, {**TEXT, **(text or {})}
    model = two_towers.Model(image=image, text=text, out_dim=(None, out_dim), temperature_init=10.0, bias_init=-10.0)
    params = randomised(model.init(jax.random.PRNGKey(0), images, texts)["params"], 1)
    save(f"{name}.npz", saved(params))
    if load:  # what big_vision itself makes of the file
        params = u.load_params(str(HERE / f"{name}.npz"))
        params["txt"] = text_transformer.load(None, f"{HERE / name}.npz:txt", text)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
    image_embeddings, text_embeddings, out = model.apply({"params": params}, images, texts)
    outputs[f"{name}/image"], outputs[f"{name}/text"] = image_embeddings, text_embeddings
    outputs[f"{name}/logits"] = image_embeddings @ text_embeddings.T * out["t"] + out["b"]


def very_old_text(params):
    params["txt"]["Encoder_0"]["pos_embedding"] = np.random.default_rng(3).normal(size=(1, 7, 16)).astype(np.float32)
    return params


def image_tower(name, **options):
    model = vit.Model(num_classes=10, **{**IMAGE, **options})
    params = randomised(model.init(jax.random.PRNGKey(0), images)["params"], 2)
    if options["pool_type"] == "tok":  # the names of the first ViT release, which AugReg kept
        transformer = params["Transformer"]
        positions = np.concatenate([np.full((1, 1, 12), 0.25, np.float32), params.pop("pos_embedding")], axis=1)
        transformer["posembed_input"] = {"pos_embedding": positions}
    save(f"{name}.npz", params)
    params = vit.load(None, str(HERE / f"{name}.npz"), {})
    outputs[f"{name}/image"] = model.apply({"params": params}, images)[1]["pre_logits"]


two_tower("big_vision_plain")
two_tower(
    "big_vision_scanned_bfloat16",
    image={"scan": True},
    saved=lambda params: {
        "params": jax.tree.map(lambda p: np.asarray(p, jnp.bfloat16), params),
        "opt": {"step": np.int64(3)},
    },
    load=True,
)
two_tower("big_vision_very_old_text", text={"scan": True}, saved=very_old_text, load=True)
two_tower("big_vision_no_text_head", text={"width": 12}, out_dim=None)
image_tower("augreg_tok", pool_type="tok")
image_tower("augreg_gap", pool_type="gap")

outputs["made_with"] = np.array(f"big_vision {sys.argv[1]}, flax {flax.__version__}, jax {jax.__version__}")
np.savez(HERE / "big_vision_outputs.npz", **{name: np.asarray(value) for name, value in outputs.items()})
