"""The embedded data drawn and decoded once: pixels and captions in files that all cells read.

A shard holds `images.npy`, uint8 (n, size, size, 3), and `captions.json`: labels and, by language, the captions of each
picture. Token ids of a vocabulary are a cell of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cell import Cell

SHARD = 4096
EVALUATED = 1_000
CAPTIONS = 3  # of each language
TEMPLATES = 4


def shards(data: Mapping[str, Any], split: str) -> list[Cell]:
    """The cells that draw a split.

    Args:
        data: "images", "image_size", "languages", "seed".
        split: of `SceneSource`.
    """
    total = data["images"] if split == "train" else data.get("evaluated", EVALUATED)
    common = {key: data[key] for key in ("image_size", "languages", "seed")} | {"split": split}
    return [
        Cell(
            "shard",
            {**common, "first": first, "count": min(SHARD, total - first)},
            f"drawing {split} pictures {first:,} to {min(first + SHARD, total):,}",
        )
        for first in range(0, total, SHARD)
    ]


def tokens(data: Mapping[str, Any], text: Mapping[str, Any]) -> Cell:
    """The cell that trains a tokenizer and applies it.

    Args:
        data: see `shards`.
        text: "languages", "vocabulary", "length".
    """
    return Cell("tokens", {"data": dict(data), "text": dict(text)}, f"tokens of {', '.join(text['languages'])}")


def draw_shard(settings: Mapping[str, Any], folder: Path, _: Path) -> dict[str, Any]:
    """Draws and decodes a shard: `images.npy` and `captions.json`, see above."""
    import io

    from PIL import Image

    from siglip_tf.synthetic import SceneSource

    source = SceneSource(
        settings["split"],
        seed=settings["seed"],
        languages=settings["languages"],
        captions=CAPTIONS,
        image_size=settings["image_size"],
    )
    images = np.empty((settings["count"], settings["image_size"], settings["image_size"], 3), np.uint8)
    labels, captions = [], {language: [] for language in settings["languages"]}
    for i in range(settings["count"]):
        example = source.example(settings["first"] + i)
        images[i] = np.asarray(Image.open(io.BytesIO(example.image)))
        labels.append(example.label)
        for k, language in enumerate(settings["languages"]):
            captions[language].append(example.captions[k * CAPTIONS : (k + 1) * CAPTIONS])
    np.save(folder / "images.npy", images)
    (folder / "captions.json").write_text(json.dumps({"labels": labels, "captions": captions}))
    return {"pictures": len(images)}


def tokenise(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Trains a tokenizer on the training captions and writes the ids of all captions and prompts: see `load_tokens`."""
    from siglip_tf.data import Tokenizer
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.synthetic import class_prompts

    data, text = settings["data"], settings["text"]
    texts = {split: _captions(data, split, root) for split in ("train", "validation", "test")}
    corpus = (
        caption
        for language in text["languages"]
        for captions in texts["train"][language][:3_000]
        for caption in captions
    )
    tokenizer = Tokenizer(train_tokenizer(corpus, text["vocabulary"], model_type="bpe"), text["length"])
    arrays = {}
    for language in text["languages"]:
        for split, captions in texts.items():
            flat = [caption for several in captions[language] for caption in several]
            ids = np.concatenate([tokenizer(flat[i : i + 20_000]).numpy() for i in range(0, len(flat), 20_000)])
            arrays[f"{split}_{language}"] = ids.reshape(len(captions[language]), CAPTIONS, text["length"])
        prompts = class_prompts(language, TEMPLATES)
        arrays[f"prompts_{language}"] = tokenizer([prompt for several in prompts for prompt in several]).numpy()
    np.savez(folder / "tokens.npz", **arrays)
    cut = np.mean(arrays[f"train_{text['languages'][0]}"][:, :, -2] != tokenizer.pad_id)
    return {"vocabulary": int(tokenizer.vocab_size), "texts_that_fill_the_length": float(cut)}


def load_images(data: Mapping[str, Any], split: str, root: Path) -> np.ndarray:
    """Pixels of a split: uint8 (n, size, size, 3)."""
    return np.concatenate([np.load(cell.folder(root) / "images.npy", mmap_mode="r") for cell in shards(data, split)])


def load_labels(data: Mapping[str, Any], split: str, root: Path) -> np.ndarray:
    """int (n,): indices of `COMPOSITIONS`."""
    return np.concatenate([_read(cell, root)["labels"] for cell in shards(data, split)])


def load_tokens(data: Mapping[str, Any], text: Mapping[str, Any], names: Sequence[str], root: Path) -> list[np.ndarray]:
    """Arrays of the tokens' cell by name, all int32.

    `SPLIT_LANGUAGE`, such as "train_de", is (pictures, captions, length); `prompts_LANGUAGE` is
    (classes * templates, length), the templates of a class together.
    """
    with np.load(tokens(data, text).folder(root) / "tokens.npz") as file:
        return [file[name] for name in names]


def _captions(data, split, root):
    read = [_read(cell, root)["captions"] for cell in shards(data, split)]
    return {language: [several for part in read for several in part[language]] for language in data["languages"]}


def _read(cell, root):
    return json.loads((cell.folder(root) / "captions.json").read_text())
