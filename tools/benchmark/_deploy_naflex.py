"""NaFlex pictures of any shape: transformers' model as this package loads it, and its exports, beside each other.

The weights are random and the towers small, since resizing, grid, positions, and mask are what is compared.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Heights and widths at the ends of what is asked for; the other pictures are drawn.
_SIZES = ((1, 700), (2000, 37), (1, 1), (37, 2000), (64, 64), (640, 480), (3, 1000), (16, 16))
_PATCH, _MAX_PATCHES, _SIDE = 16, 256, 16
_VOCABULARY, _TOKENS = 200, 7
_TOWER = {"num_hidden_layers": 3, "num_attention_heads": 3}
MOST_ERROR = 1e-4


def pictures(count: int) -> list[np.ndarray]:
    """uint8 (height, width, 3), from 1 x 700 to 2,000 x 37 pixels."""
    rng = np.random.default_rng(0)
    sizes = [*_SIZES, *(tuple(np.exp(rng.uniform(0, 6.5, 2)).astype(int)) for _ in range(count))]
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in sizes[:count]]


def logit_errors(folder: Path, count: int = 30) -> Iterator[tuple[str, float]]:
    """What was compared with transformers' logits, and the largest difference of one.

    Args:
        folder: an empty one, for checkpoints and exports.
        count: how many pictures.

    Raises:
        ImportError: transformers, torch, or onnxruntime is not installed.
    """
    import tensorflow as tf

    import siglip_tf
    from siglip_tf.data import Preprocessing, Tokenizer
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.export import export_saved_model, onnx

    from ..export_checks import onnx_towers, tower_inputs
    from ._serving_cost import texts

    images = pictures(count)
    ids = np.random.default_rng(1).integers(0, _VOCABULARY, (3, _TOKENS)).astype(np.int32)
    wanted = _transformers_logits(folder / "transformers", images, ids)

    model = siglip_tf.SigLIP.from_checkpoint(folder / "transformers", verbose=False)
    model.save_checkpoint(folder / "model.npz", format="big_vision")
    other = siglip_tf.SigLIP.from_checkpoint(folder / "model.npz", max_patches=_MAX_PATCHES, verbose=False)
    for name, loaded in (("Hugging Face folder", model), ("big_vision file", other)):
        found = loaded.logits(loaded.encode_image(images), loaded.encode_text(ids))
        yield name, float(np.abs(found - wanted).max())

    text = model.encode_text(ids)
    tokenizer = Tokenizer(train_tokenizer(texts(1_000), vocab_size=_VOCABULARY), _TOKENS)
    model.preprocessing = Preprocessing(model.preprocessing.image, tokenizer)
    export = export_saved_model(model, folder / "saved_model")
    embed = tf.saved_model.load(export.path).signatures["embed_image"]
    encoded = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    found = model.logits(embed(images=encoded)["embedding"], text)
    yield "SavedModel, from PNG files", float(np.abs(found - wanted).max())

    files = onnx.export_onnx(model, folder / "onnx")
    prepared = [model.preprocessing.image(image) for image in images]
    batch = tower_inputs({name: np.stack([one[name] for one in prepared]) for name in prepared[0]})
    ask = onnx_towers(files.path)
    found = model.logits(ask("encode_image", **batch), ask("encode_text", token_ids=ids))
    yield "ONNX float32", float(np.abs(found - wanted).max())


def _transformers_logits(folder: Path, images: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Saves a `Siglip2Model` of random weights, and returns its logits."""
    import torch
    import transformers
    from PIL import Image

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    width = {"hidden_size": 24, "intermediate_size": 40}
    vision = _TOWER | width | {"patch_size": _PATCH, "num_patches": _SIDE**2}
    text = _TOWER | width | {"vocab_size": _VOCABULARY, "max_position_embeddings": _TOKENS, "projection_size": 24}
    config = transformers.Siglip2Config(vision_config=vision, text_config=text | {"bos_token_id": 0, "eos_token_id": 1})
    theirs = transformers.Siglip2Model(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        theirs.logit_scale.fill_(np.log(100))  # a temperature like the public checkpoints', so that errors show
    processor = transformers.Siglip2ImageProcessor(patch_size=_PATCH, max_num_patches=_MAX_PATCHES)
    theirs.save_pretrained(folder)
    processor.save_pretrained(folder)
    batch = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.no_grad():
        return theirs(input_ids=torch.tensor(ids), **batch).logits_per_image.numpy()
