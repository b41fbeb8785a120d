"""Compares the results of two libraries for the same checkpoint: token ids, pixels, embeddings, and logits."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from siglip_tf.checkpoints import Checkpoint

TEXTS = (
    "A photo of a cat.",
    "two dogs, one ball",
    "ÀÉÎ GRÜSSE aus der Straße",
    "猫の写真 🐈",
    "  spaces   and a-very-long text " + "word " * 80,
    "",
)
# (height, width): larger and smaller than a model's input, tall, and wide.
_SIZES = ((480, 640), (90, 31), (301, 200))
_LIBRARIES = {"hugging_face": "transformers", "keras_hub": "keras_hub"}

Answers = Mapping[str, np.ndarray]


def compare_answers(checkpoint: Checkpoint, path: Path, format: str) -> list[str]:
    """Returns lines that say how the results of the library for `format` differ from this project's.

    Args:
        checkpoint: the checkpoint that was converted.
        path: the path to which it was written.
        format: the format of `path`.
    """
    library = _LIBRARIES.get(format)
    if library is None:
        return []
    if importlib.util.find_spec(library) is None:
        return [f"Answers were not compared: {library} is not installed."]
    if checkpoint.architecture.get("max_patches"):
        return ["Answers were not compared: NaFlex models take pictures of any size. Compare logits in transformers."]
    pictures = list(sample_pictures())
    own = _own_answers(checkpoint, pictures)
    theirs = (_transformers_answers if format == "hugging_face" else _keras_hub_answers)(path, pictures, own)
    return [f"Answers of {library} and of this project, on {len(pictures)} pictures and {len(TEXTS)} texts:"] + [
        f"  {line}" for line in _differences(own, theirs)
    ]


def sample_pictures() -> Iterable[np.ndarray]:
    """Yields pictures, uint8 (height, width, 3), with a fine texture on a gradient, which shows resize differences."""
    rng = np.random.default_rng(0)
    for height, width in _SIZES:
        slope = np.linspace(0, 160, height)[:, None, None] * np.linspace(0.3, 1, width)[:, None]
        yield (slope + rng.integers(0, 96, (height, width, 3))).astype(np.uint8)


def _own_answers(checkpoint: Checkpoint, pictures: list[np.ndarray]) -> Answers:
    import siglip_tf  # imported here, because loading TensorFlow takes seconds
    from siglip_tf.models.pretrained import fill_model

    model = siglip_tf.SigLIP(**checkpoint.architecture)
    fill_model(model, checkpoint)
    answers, preprocessing = {}, model.preprocessing
    if preprocessing is not None and preprocessing.image is not None:
        answers["pixels"] = np.stack([preprocessing.image(picture).numpy() for picture in pictures])
        answers["image"] = np.asarray(model.encode_image(answers["pixels"]))
    if preprocessing is not None and preprocessing.text is not None:
        answers["ids"] = preprocessing.text(list(TEXTS)).numpy()
        answers["text"] = np.asarray(model.encode_text(answers["ids"]))
    if {"image", "text"} <= set(answers):
        answers["logits"] = np.asarray(model.logits(answers["image"], answers["text"]))
    return answers


def _transformers_answers(path: Path, pictures: list[np.ndarray], own: Answers) -> Answers:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(path).eval()
    answers: dict[str, np.ndarray] = {}
    with torch.no_grad():
        if "pixels" in own:
            from PIL import Image

            processor = transformers.AutoImageProcessor.from_pretrained(path)
            pixels = processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
            answers["pixels"] = pixels.permute(0, 2, 3, 1).numpy()
            answers["image"] = _normalized(model.vision_model(pixels).pooler_output.numpy())
        if "ids" in own:
            length = own["ids"].shape[1]
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            found = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=length)["input_ids"]
            answers["ids"] = np.array(found)
            answers["text"] = _normalized(model.text_model(torch.tensor(found)).pooler_output.numpy())
    return _with_logits(answers, model.logit_scale.exp().item(), model.logit_bias.item())


def _keras_hub_answers(path: Path, pictures: list[np.ndarray], own: Answers) -> Answers:
    import keras_hub

    backbone = keras_hub.models.SigLIPBackbone.from_preset(str(path))
    answers: dict[str, np.ndarray] = {}
    if "pixels" in own:
        converter = keras_hub.layers.SigLIPImageConverter.from_preset(str(path))
        answers["pixels"] = np.concatenate([np.asarray(converter(picture[None])) for picture in pictures])
        answers["image"] = _normalized(np.asarray(backbone.vision_encoder({"images": answers["pixels"]})))
    if "ids" in own:
        try:
            preprocessor = keras_hub.models.SigLIPPreprocessor.from_preset(str(path))
            images = np.zeros((len(TEXTS), 8, 8, 3))
            answers["ids"] = np.asarray(preprocessor({"prompts": list(TEXTS), "images": images})["token_ids"])
            answers["text"] = _normalized(np.asarray(backbone.text_encoder({"token_ids": answers["ids"]})))
        except ValueError:  # its tokenizer refuses the vocabulary, which a note of the writer explains
            pass
    head = {variable.name: float(np.asarray(variable)) for variable in backbone.siglip_head.weights}
    return _with_logits(answers, np.exp(head["logit_scale"]), head["logit_bias"])


def _with_logits(answers: dict[str, np.ndarray], temperature: float, bias: float) -> Answers:
    if {"image", "text"} <= set(answers):
        answers["logits"] = temperature * answers["image"] @ answers["text"].T + bias
    return answers


def _normalized(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _differences(own: Answers, theirs: Answers) -> Iterable[str]:
    if "ids" in theirs:
        same = (own["ids"] == theirs["ids"]).all(axis=1)
        line = f"token ids: equal for {same.sum()} of {len(same)} texts"
        yield line if same.all() else f"{line}; the first that differ are those of {TEXTS[int(same.argmin())]!r}"
    elif "ids" in own:
        yield "token ids: not compared, the library could not make the tokenizer"
    if "pixels" in theirs:
        yield f"pixels: {np.abs(own['pixels'] - theirs['pixels']).max() * 127.5:.2f} of 255 apart at most"
    for part in ("image", "text"):
        if part in theirs:
            cosine = (own[part] * theirs[part]).sum(axis=-1).min()
            yield f"{part} embeddings: cosine {cosine:.6f} at least"
    if "logits" in theirs:
        yield f"logits: {np.abs(own['logits'] - theirs['logits']).max():.2g} apart at most"
