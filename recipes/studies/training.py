"""One training run of a study: a small SigLIP or SigLiT on the drawn scenes, its curves, and its evaluation.

The step is the library's own `train_step`; many of them run in one loop of the graph, since at this size what Python
does between two steps would take as long as the steps.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import store
from .cell import Cell

_POINTS = 60  # of each curve
_EMBEDDED_AT_A_TIME = 500
_FEW_SHOT_FROM = 1_500  # training pictures: more than ten of nearly every class
_NAMES = {"validation": "zero_shot", "test": "zero_shot_held_out"}
_CURVES = ("loss", "temperature", "bias", "gradient_norm", "update_norm", "positive_logit", "negative_logit")


def needs(settings: Mapping[str, Any]) -> list[Cell]:
    """Pictures, tokens, and the run whose image tower this one starts from."""
    data = settings["data"]
    cells = [cell for split in ("train", "validation", "test") for cell in store.shards(data, split)]
    cells.append(store.tokens(data, settings["text"]))
    if settings.get("tower"):
        cells.append(tower_cell(settings))
    return cells


def tower_cell(settings: Mapping[str, Any]) -> Cell:
    """The run whose image tower `settings` starts from."""
    return Cell("train", settings["tower"]["from"], "the pretrained image tower")


def cost(settings: Mapping[str, Any]) -> float:
    """Estimated seconds on one core."""
    steps = settings["examples"] / settings["batch"]
    depth = settings["model"].get("text_depth", 1)
    width = settings["model"]["text_width"] / 64
    frozen = (settings.get("tower") or {}).get("frozen", False)
    towers = (depth if frozen else depth + settings["model"]["image_depth"]) * width * 150e-6
    pairs = settings["batch"] * (30e-9 if settings["model"].get("negatives") is None else 400e-9)
    return 7 + settings["examples"] * (towers + pairs) + steps * (2e-3 if frozen else 4e-3)


def train(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Computes a cell.

    Args:
        settings: "data" and "text" (see `store`), "model" (arguments of `SigLIP`), "batch", "examples", "seed", and
            "optimizer" (arguments of `AdamW` beside the schedule). "corruption": kind and probability; "tower": "from"
            (settings of the run that trained it), "frozen", "decay", "learning_rate_multiplier"; "evaluate_at": which
            parts of the run; "points" of each curve; "few_shot"; "keep" writes the tower and its embeddings of all
            pictures.
        folder: of the cell.
        root: of all cells.

    Returns:
        Curves by name, figures of the evaluations, `initial_loss`, `final`.
    """
    run = _run_of(group(settings), root)
    run.begin(settings["seed"])
    steps = max(1, round(settings["examples"] / settings["batch"]))
    order = epochs(run.size, settings["batch"], steps, settings["seed"])
    every = max(1, steps // settings.get("points", _POINTS))
    stops = sorted({max(1, round(steps * part)) for part in settings.get("evaluate_at", (1.0,))} | {steps})
    curves, evaluations, done = [], [], 0
    for stop in stops:
        while done < stop:
            count = min(every, stop - done)
            values = run.steps(*run.batches(order[done : done + count], done))
            if done == 0:
                initial_loss = float(values["loss"][0])
            done += count
            curves.append({"step": done, **{name: _mean_of(values[name]) for name in _CURVES if name in values}})
            if diverged(curves[-1]):
                break
        found = chance(settings) if diverged(curves[-1]) else run.evaluate(done == steps)
        evaluations.append({"step": done, "examples": done * settings["batch"], **found})
        if diverged(curves[-1]):
            break
    if settings.get("keep"):
        run.keep(folder)
    return {
        "steps": steps,
        "parameters": run.model.count_params(),
        "initial_loss": initial_loss,
        "diverged_at": done if diverged(curves[-1]) else None,
        "curves": {name: [curve[name] for curve in curves] for name in curves[0]},
        "evaluations": evaluations,
        "final": {**evaluations[-1], **{name: curves[-1][name] for name in _CURVES if name in curves[-1]}},
    }


def group(settings: Mapping[str, Any]) -> str:
    """What cells that differ in nothing but their seed have in common: one process need build their model once."""
    return json.dumps({name: value for name, value in settings.items() if name != "seed"}, sort_keys=True)


@functools.lru_cache(maxsize=1)
def _run_of(group_of_cells: str, root: Path) -> _Run:
    return _Run(json.loads(group_of_cells), root)


def forget() -> None:
    """Drops the model that this process keeps for cells of one group."""
    _run_of.cache_clear()


def diverged(curve: Mapping[str, float | None]) -> bool:
    """Whether a value of the last steps is not finite."""
    return None in curve.values()


def chance(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of guessing, which a run that diverged is given."""
    figures = {"zero_shot": 0.01, "zero_shot_held_out": 0.01, "recall_at_1": 0.001, "recall_at_5": 0.005}
    return {**figures, "few_shot": 0.01, "by_language": {name: dict(figures) for name in settings["text"]["languages"]}}


def _mean_of(values) -> float | None:
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


def epochs(size: int, batch: int, steps: int, seed: int) -> np.ndarray:
    """int32 (steps, batch): every picture once an epoch, in a new order each time."""
    generator = np.random.default_rng(seed)
    epochs = -(-steps * batch // size)
    drawn = np.concatenate([generator.permutation(size) for _ in range(epochs)])[: steps * batch]
    return drawn.reshape(steps, batch).astype(np.int32)


class _Run:
    """Model, data in memory, the compiled loop of steps, and the evaluation."""

    def __init__(self, settings: Mapping[str, Any], root: Path):
        import keras
        import tensorflow as tf

        import siglip_tf
        from siglip_tf.data.corruption import Corruption

        keras.backend.clear_session()
        self._settings, self._root = settings, root
        self._data, self._text = settings["data"], settings["text"]
        vocabulary = store.tokens(self._data, self._text).result(root)["vocabulary"]
        tower = settings.get("tower") or {}
        self._frozen = bool(tower.get("frozen"))
        model = dict(settings["model"])
        if self._frozen:
            model = {name: value for name, value in model.items() if not name.startswith("image")}
            model |= {"image": None, "embed_dim": settings["model"]["image_width"]}
        model |= {"text_length": self._text["length"], "vocab_size": vocabulary}
        self._make_model = functools.partial(siglip_tf.SigLIP, **model)
        self.model = self._make_model()
        self.model.compile(self._optimizer(tower))
        self._optimizer_state = [v.numpy() for v in self.model.optimizer.variables]
        self._tower_weights = {}
        if tower and not self._frozen:
            with np.load(tower_cell(settings).folder(root) / "tower.npz") as file:
                self._tower_weights = dict(file)
        if self._frozen:
            with np.load(tower_cell(settings).folder(root) / "embeddings.npz") as file:
                self._stored = {name: file[name] for name in file.files}
            self._images = self._stored["train"]
        else:
            self._images = store.load_images(self._data, "train", root)
        ids = store.load_tokens(
            self._data, self._text, [f"train_{language}" for language in self._text["languages"]], root
        )
        self._ids = np.concatenate(ids, 1)  # (n, languages * captions, length)
        self.size = len(self._ids)
        corruption = settings.get("corruption")
        self._corrupt = None if not corruption else Corruption(**corruption, vocab_size=vocabulary)
        batch, shape = settings["batch"], self._images.shape[1:]
        self.steps = tf.function(
            self._steps,
            autograph=False,
            input_signature=[
                tf.TensorSpec((None, batch, *shape), self._images.dtype),
                tf.TensorSpec((None, batch, self._text["length"]), tf.int32),
                tf.TensorSpec((None, 2), tf.int32),
            ],
        )

    def _optimizer(self, tower):
        from siglip_tf.experiments.build import IMAGE_TOWER, SCALARS
        from siglip_tf.optimizers import AdamW, Cosine, ParameterGroup

        settings = self._settings
        steps = max(1, round(settings["examples"] / settings["batch"]))
        options = dict(settings["optimizer"])
        scalars = options.pop("scalars_learning_rate")
        warmup = max(1, round(options.pop("warmup") * steps))
        groups = [ParameterGroup(SCALARS, scalars)]
        if tower and not self._frozen:
            groups.append(ParameterGroup(IMAGE_TOWER, tower["learning_rate_multiplier"], float(tower["decay"])))
        return AdamW(options.pop("learning_rate"), Cosine(steps, min(warmup, steps)), groups=groups, **options)

    def begin(self, seed: int) -> None:
        """Weights as a new model of this seed has them, the pretrained tower's laid over them; the optimizer anew."""
        import keras

        self._seed = seed
        keras.utils.set_random_seed(seed)
        weights = {name: v.numpy() for name, v in self._make_model().named_weights().items()}
        self.model.assign_weights({**weights, **self._tower_weights})
        for variable, value in zip(self.model.optimizer.variables, self._optimizer_state, strict=True):
            variable.assign(value)

    def batches(self, rows: np.ndarray, first: int) -> tuple[Any, ...]:
        """What `steps` takes for int32 (steps, batch) of pictures, `first` being the number of the first step."""
        import tensorflow as tf

        generator = np.random.default_rng((self._seed, first))
        captions = generator.integers(self._ids.shape[1], size=rows.shape)
        seeds = np.stack(np.broadcast_arrays(self._seed, first + np.arange(len(rows))), 1).astype(np.int32)
        return tf.constant(self._images[rows]), tf.constant(self._ids[rows, captions]), tf.constant(seeds)

    def _steps(self, images, ids, seeds):
        """Runs as many steps as there are batches; float32 (steps,) of every metric."""
        import tensorflow as tf

        count = tf.shape(ids)[0]
        names = [name for name in _CURVES if name != "bias" or self.model.bias is not None]

        def step(i, arrays):
            metrics = self.model.train_step(self._batch(images[i], ids[i], seeds[i]))
            return i + 1, [array.write(i, metrics[name]) for name, array in zip(names, arrays, strict=True)]

        arrays = [tf.TensorArray(tf.float32, count, element_shape=()) for _ in names]
        _, arrays = tf.while_loop(lambda i, _: i < count, step, (tf.constant(0), arrays), parallel_iterations=1)
        return {name: array.stack() for name, array in zip(names, arrays, strict=True)}

    def _batch(self, images, ids, seed):
        batch = {"text": ids}
        batch |= {"image_embedding": images} if self._frozen else {"image": _normalised(images)}
        return batch if self._corrupt is None else self._corrupt(batch, seed)

    def evaluate(self, last: bool) -> dict[str, Any]:
        """Zero-shot on new pictures of seen compositions; at the end also of held-out ones, and retrieval."""
        from siglip_tf.evaluation import retrieval, zero_shot
        from siglip_tf.evaluation.zero_shot import average_prompts

        images = {split: self._embed_images(split) for split in ("validation", "test")[: 1 + last]}
        labels = {split: store.load_labels(self._data, split, self._root) for split in images}
        by_language: dict[str, dict[str, float]] = {}
        for language in self._text["languages"]:
            prompts, captions = store.load_tokens(
                self._data, self._text, [f"prompts_{language}", f"validation_{language}"], self._root
            )
            classes = average_prompts(self._embed_texts(prompts), store.TEMPLATES)
            found = {_NAMES[split]: zero_shot(images[split], classes, labels[split]).top1 for split in images}
            if last:
                texts = self._embed_texts(captions[:, 0])
                recalls = retrieval(images["validation"], texts, recall_at=(1, 5)).text_to_image
                found |= {"recall_at_1": recalls[1], "recall_at_5": recalls[5]}
            by_language[language] = found
        means = {name: float(np.mean([one[name] for one in by_language.values()])) for name in found}
        if self._settings.get("few_shot"):
            means["few_shot"] = self._few_shot(images["validation"], labels["validation"])
        return {**means, "by_language": by_language} if last else means

    def _few_shot(self, images: np.ndarray, labels: np.ndarray) -> float:
        """10-shot accuracy of the image tower alone."""
        from siglip_tf.evaluation import few_shot

        train = self._embed_images("train", _FEW_SHOT_FROM)
        known = store.load_labels(self._data, "train", self._root)[: len(train)]
        classes, known = np.unique(known, return_inverse=True)
        counted = np.isin(labels, classes)
        labels = np.searchsorted(classes, labels[counted])
        return few_shot(train, known, images[counted], labels, len(classes)).accuracy

    def _embed_images(self, split, count=None):
        if self._frozen:
            return self._stored[split][:count]
        pixels = self._images if split == "train" else store.load_images(self._data, split, self._root)
        pixels = pixels[:count]
        parts = range(0, len(pixels), _EMBEDDED_AT_A_TIME)
        return np.concatenate([self._embed_pixels(pixels[i : i + _EMBEDDED_AT_A_TIME]) for i in parts])

    def _embed_pixels(self, pixels):
        return self.model.encode_image(_normalised(pixels)).numpy()

    def _embed_texts(self, ids):
        parts = range(0, len(ids), _EMBEDDED_AT_A_TIME)
        return np.concatenate([self.model.encode_text(ids[i : i + _EMBEDDED_AT_A_TIME]).numpy() for i in parts])

    def keep(self, folder: Path) -> None:
        """Writes the image tower's weights, and its embeddings of all pictures."""
        weights = {name: v.numpy() for name, v in self.model.named_weights().items() if name.startswith("image/")}
        np.savez(folder / "tower.npz", **weights)
        np.savez(
            folder / "embeddings.npz",
            **{split: self._embed_images(split).astype(np.float32) for split in ("train", "validation", "test")},
        )


def _normalised(pixels):
    """uint8 to float32 in [-1, 1]."""
    import tensorflow as tf

    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def summary(result: Mapping[str, Any]) -> str:
    """One figure for the progress line."""
    return f"zero-shot {result['final']['zero_shot']:.1%}, R@1 {result['final']['recall_at_1']:.1%}"
