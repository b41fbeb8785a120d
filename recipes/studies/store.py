"""The crowded scenes drawn and decoded once: pixels and captions in files that all cells read.

A shard holds `images.npy`, uint8 (n, size, size, 3), and `captions.json`: labels and, by language, the captions of each
picture. A vocabulary with its token ids is a cell of its own, and so is a set of captions with the faults of the web.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cell import Cell

SHARD = 4096
CAPTIONS = 3  # of each language
TEMPLATES = 4
LEVEL = "crowded"


@dataclasses.dataclass(frozen=True)
class Part:
    """Pictures for one purpose: `count` of a split of `SceneSource`, from `first` on; None for as many as asked for."""

    split: str
    first: int
    count: int | None


# Settings are chosen on pictures that no result is computed from. "held_out" shows colours and shapes that training
# never shows together.
PARTS = {
    "train": Part("train", 0, None),
    "choosing": Part("validation", 0, 1_000),
    "result": Part("validation", 1_000, 2_000),
    "held_out": Part("test", 0, 1_000),
}


def shards(data: Mapping[str, Any], part: str) -> list[Cell]:
    """The cells that draw a part.

    Args:
        data: "images", "image_size", "languages", "seed"; "evaluated" in place of the counts of `PARTS`.
        part: in `PARTS`.
    """
    split, first, count = dataclasses.astuple(PARTS[part])
    total = data["images"] if count is None else data.get("evaluated", count)
    common = {key: data[key] for key in ("image_size", "languages", "seed")} | {"split": split}
    return [
        Cell(
            "shard",
            {**common, "first": first + start, "count": min(SHARD, total - start)},
            f"drawing {part} pictures {start:,} to {min(start + SHARD, total):,}",
        )
        for start in range(0, total, SHARD)
    ]


def tokens(data: Mapping[str, Any], text: Mapping[str, Any]) -> Cell:
    """The cell that trains a tokenizer and applies it.

    Args:
        data: see `shards`.
        text: "languages", "vocabulary", "length".
    """
    return Cell("tokens", {"data": dict(data), "text": dict(text)}, f"tokens of {', '.join(text['languages'])}")


def noisy_tokens(data: Mapping[str, Any], text: Mapping[str, Any], noise: Mapping[str, float]) -> Cell:
    """The cell that words the training pictures with faults.

    Args:
        data: see `shards`.
        text: see `tokens`.
        noise: arguments of `WebNoise`.
    """
    settings = {"data": dict(data), "text": dict(text), "noise": dict(noise)}
    return Cell("noisy_tokens", settings, f"captions with faults {dict(noise)}")


def _source(settings: Mapping[str, Any], split: str, **changes: Any):
    from siglip_tf.synthetic import SceneSource

    return SceneSource(
        split,
        seed=settings["seed"],
        languages=settings["languages"],
        captions=CAPTIONS,
        image_size=settings["image_size"],
        level=LEVEL,
        **changes,
    )


def draw_shard(settings: Mapping[str, Any], folder: Path, _: Path) -> dict[str, Any]:
    """Draws and decodes a shard: `images.npy` and `captions.json`, see above."""
    import io

    from PIL import Image

    source = _source(settings, settings["split"])
    images = np.empty((settings["count"], settings["image_size"], settings["image_size"], 3), np.uint8)
    labels: list[int] = []
    places: list[Any] = []
    captions: dict[str, list[Any]] = {language: [] for language in settings["languages"]}
    for i in range(settings["count"]):
        example = source.example(settings["first"] + i)
        images[i] = np.asarray(Image.open(io.BytesIO(example.image)))
        labels.append(example.label)
        places.append(_layout(example.scene))
        for k, language in enumerate(settings["languages"]):
            captions[language].append(example.captions[k * CAPTIONS : (k + 1) * CAPTIONS])
    np.save(folder / "images.npy", images)
    np.save(folder / "layouts.npy", np.array(places, np.int8))
    (folder / "captions.json").write_text(json.dumps({"labels": labels, "captions": captions}))
    return {"pictures": len(images)}


def _layout(scene) -> np.ndarray:
    """int8 (9, 3): shape, colour and texture at each place, counted from 1; 0 where nothing is."""
    from siglip_tf.synthetic.composition import COLOURS, PLACES, SHAPES, TEXTURES

    found = np.zeros((len(PLACES), 3), np.int8)
    for thing in scene.objects:
        words = (SHAPES.index(thing.shape), COLOURS.index(thing.colour), TEXTURES.index(thing.texture))
        found[PLACES.index(thing.place)] = np.array(words) + 1
    return found


def tokenise(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Trains a tokenizer on the training captions and writes the ids of all captions and prompts: see `load_tokens`."""
    from siglip_tf.checkpoints.files import write_npz
    from siglip_tf.data import Tokenizer
    from siglip_tf.data.text.training import train_tokenizer
    from siglip_tf.synthetic import crowded_prompts

    data, text = settings["data"], settings["text"]
    texts = {part: _captions(data, part, root) for part in ("train", "result")}
    corpus = (
        caption
        for language in text["languages"]
        for captions in texts["train"][language][:3_000]
        for caption in captions
    )
    model = train_tokenizer(corpus, text["vocabulary"], model_type="bpe")
    (folder / "tokenizer.model").write_bytes(model)
    tokenizer = Tokenizer(model, text["length"])
    arrays = {}
    for language in text["languages"]:
        for part, captions in texts.items():
            arrays[f"{part}_{language}"] = _ids(tokenizer, captions[language], text["length"])
        prompts = crowded_prompts(language, TEMPLATES)
        arrays[f"prompts_{language}"] = tokenizer([prompt for several in prompts for prompt in several]).numpy()
    write_npz(folder / "tokens.npz", arrays)
    cut = np.mean(arrays[f"train_{text['languages'][0]}"][:, :, -2] != tokenizer.pad_id)
    return {"vocabulary": int(tokenizer.vocab_size), "texts_that_fill_the_length": float(cut)}


def tokenise_noisy(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Writes the ids of captions with faults, and whose picture each example shows: see `load_noisy`."""
    from siglip_tf.checkpoints.files import write_npz
    from siglip_tf.data import Tokenizer
    from siglip_tf.synthetic import WebNoise

    data, text = settings["data"], settings["text"]
    vocabulary = tokens(data, text).folder(root) / "tokenizer.model"
    tokenizer = Tokenizer(vocabulary.read_bytes(), text["length"])
    source = _source(data, "train", noise=WebNoise(**settings["noise"]))
    worded = [source.texts(i) for i in range(data["images"])]
    arrays = {"pictures": np.array([source.picture_of(i) for i in range(data["images"])], np.int32)}
    for language in text["languages"]:
        k = CAPTIONS * data["languages"].index(language)
        arrays[language] = _ids(tokenizer, [texts[k : k + CAPTIONS] for texts in worded], text["length"])
    write_npz(folder / "tokens.npz", arrays)
    return {"repeated": float(np.mean(arrays["pictures"] != np.arange(data["images"])))}


def _ids(tokenizer, captions, length):
    """int32 (pictures, captions, length)."""
    flat = [caption for several in captions for caption in several]
    ids = np.concatenate([tokenizer(flat[i : i + 20_000]).numpy() for i in range(0, len(flat), 20_000)])
    return ids.reshape(len(captions), CAPTIONS, length)


def load_images(data: Mapping[str, Any], part: str, root: Path) -> np.ndarray:
    """Pixels of a part: uint8 (n, size, size, 3)."""
    return _load(data, part, root, "images.npy")


def load_layouts(data: Mapping[str, Any], part: str, root: Path) -> np.ndarray:
    """int8 (n, 9, 3): shape, colour and texture at each place, counted from 1; 0 where nothing is."""
    return _load(data, part, root, "layouts.npy")


def _load(data, part, root, name):
    return np.concatenate([np.load(cell.folder(root) / name, mmap_mode="r") for cell in shards(data, part)])


def load_labels(data: Mapping[str, Any], part: str, root: Path) -> np.ndarray:
    """int (n,): indices of `CROWDED_COMPOSITIONS`."""
    return np.concatenate([_read(cell, root)["labels"] for cell in shards(data, part)])


def load_tokens(data: Mapping[str, Any], text: Mapping[str, Any], names: Sequence[str], root: Path) -> list[np.ndarray]:
    """Arrays of the tokens' cell by name, all int32.

    `PART_LANGUAGE`, such as "train_de", is (pictures, captions, length); `prompts_LANGUAGE` is
    (classes * templates, length), the templates of a class together.
    """
    with np.load(tokens(data, text).folder(root) / "tokens.npz") as file:
        return [file[name] for name in names]


def load_noisy(data, text, noise, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of captions with faults: int32 (pictures,) whose picture each example shows, int32 (pictures, captions, length).

    Args:
        data, text, noise: see `noisy_tokens`.
        root: of all cells.
    """
    with np.load(noisy_tokens(data, text, noise).folder(root) / "tokens.npz") as file:
        return file["pictures"], np.concatenate([file[language] for language in text["languages"]], 1)


def _captions(data, part, root):
    read = [_read(cell, root)["captions"] for cell in shards(data, part)]
    return {language: [several for one in read for several in one[language]] for language in data["languages"]}


def _read(cell, root):
    return json.loads((cell.folder(root) / "captions.json").read_text())
