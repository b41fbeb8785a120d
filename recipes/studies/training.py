"""One training run of a study: a small SigLIP or SigLiT on the crowded scenes, its curves, and its evaluation.

The step is the library's own `train_step`. Many steps run in one compiled loop, since at this size what TensorFlow does
between two operations would take longer than the operations.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import choice, store, tower
from .cell import Cell

_POINTS = 64  # of each curve
_EMBEDDED_AT_A_TIME = 500
_FEW_SHOT_FROM = 4_000  # training pictures: more than ten of nearly every colour and shape
_FEW_SHOT_CLASSES = 100  # colours and shapes
_CURVES = ("loss", "temperature", "bias", "gradient_norm", "update_norm", "positive_logit", "negative_logit")


def needs(settings: Mapping[str, Any]) -> list[Cell]:
    """Pictures, tokens, the image tower that this run starts from, and the cell that chose its settings."""
    data, text = settings["data"], settings["text"]
    cells = [cell for part in store.PARTS for cell in store.shards(data, part)]
    cells.append(store.tokens(data, text))
    if settings.get("noise"):
        cells.append(store.noisy_tokens(data, text, settings["noise"]))
    if settings.get("tower"):
        cells.append(tower_cell(settings))
    if settings.get("choice"):
        cells.append(choice.cell(settings["choice"]))
    return cells


def tower_cell(settings: Mapping[str, Any]) -> Cell:
    """The cell that trained the image tower which a run starts from."""
    return Cell("tower", settings["tower"]["pretrained"], "the pretrained image tower")


def cost(settings: Mapping[str, Any]) -> float:
    """Estimated seconds on one core, as measured; the compilation is shared by the cells of a group."""
    steps = settings["examples"] / settings["batch"]
    model = settings["model"]
    frozen = (settings.get("tower") or {}).get("frozen", False)
    seconds = settings["text"]["length"] / 16 * (model["text_width"] / 32) ** 1.3 * 26e-6
    if not frozen:
        seconds += 9 / 16 * (model["image_width"] / 32) ** 1.3 * model["image_depth"] * 20e-6
    pairs = settings["batch"] * (10e-9 if model.get("negatives") is None else 150e-9)
    return 5 + settings["examples"] * (seconds + pairs) + steps * 0.6e-3


def train(settings: Mapping[str, Any], folder: Path, root: Path) -> dict[str, Any]:
    """Computes a cell.

    Args:
        settings: "data" and "text" (see `store`), "model" (arguments of `SigLIP`), "batch", "examples", "seed", and
            "optimizer" (arguments of `AdamW` beside the schedule). "choice": settings of the cell whose chosen settings
            are laid over these. "noise": arguments of `WebNoise`; "corruption": kind and probability; "tower":
            "pretrained" (settings of its cell), "frozen", "decay", "learning_rate_multiplier"; "evaluate_at": which
            parts of the run; "points" of each curve; "few_shot"; "jit": whether XLA compiles the
            steps, which it does.
        folder: of the cell.
        root: of all cells.

    Returns:
        Curves by name, figures of the evaluations, `initial_loss`, `final`, and what was `chosen`.
    """
    chosen = {}
    if settings.get("choice"):
        chosen = choice.cell(settings["choice"]).result(root)["chosen"]
        settings = choice.laid_over(settings, chosen)
    run = _run_of(group(settings), root)
    run.begin(settings)
    every, steps = schedule(settings)
    order = epochs(run.size, settings["batch"], steps, settings["seed"])
    stops = sorted({max(1, round(steps * part / every)) * every for part in settings.get("evaluate_at", ())} | {steps})
    curves, evaluations, done = [], [], 0
    for stop in stops:
        while done < stop:
            values = run.steps(*run.batches(order[done : done + every], done))
            if done == 0:
                initial_loss = float(values["loss"][0])
            done += every
            curves.append({"step": done, **{name: _mean_of(values[name]) for name in _CURVES if name in values}})
            if diverged(curves[-1]):
                break
        found = chance(settings) if diverged(curves[-1]) else run.evaluate(done == steps)
        evaluations.append({"step": done, "examples": done * settings["batch"], **found})
        if diverged(curves[-1]):
            break
    return {
        "steps": steps,
        "chosen": chosen,
        "parameters": run.model.count_params(),
        "initial_loss": initial_loss,
        "diverged_at": done if diverged(curves[-1]) else None,
        "curves": {name: [curve[name] for curve in curves] for name in curves[0]},
        "evaluations": evaluations,
        "final": {**evaluations[-1], **{name: curves[-1][name] for name in _CURVES if name in curves[-1]}},
    }


def schedule(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Steps between two points of a curve, and steps of the whole run, a multiple of the former: one compiled loop."""
    steps = max(1, round(settings["examples"] / settings["batch"]))
    every = max(1, steps // settings.get("points", _POINTS))
    return every, steps // every * every


def group(settings: Mapping[str, Any]) -> str:
    """Returns what a group of cells shares, so that one process compiles it once."""
    kept = {name: value for name, value in settings.items() if name not in ("seed", "choice", "noise", "evaluate_at")}
    kept["optimizer"] = {name: value for name, value in settings["optimizer"].items() if name != "learning_rate"}
    kept["model"] = {name: value for name, value in settings["model"].items() if name not in ("init_temperature",)}
    kept["model"]["init_bias"] = None if settings["model"].get("init_bias") is None else 0.0
    return json.dumps(kept, sort_keys=True)


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
    """Returns the figures of random guessing, which a diverged run receives."""
    classes = 1_200
    figures = dict.fromkeys(("zero_shot", "choosing", "held_out"), 1 / classes)
    figures |= {"recall_at_1": 0.0005, "recall_at_5": 0.0025}
    by_language = {name: dict(figures) for name in settings["text"]["languages"]}
    return {**figures, "few_shot": 1 / _FEW_SHOT_CLASSES, "by_language": by_language}


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

        keras.backend.clear_session()
        self._settings, self._root = settings, root
        self._data, self._text = settings["data"], settings["text"]
        vocabulary = store.tokens(self._data, self._text).result(root)["vocabulary"]
        given = settings.get("tower") or {}
        self._frozen = bool(given.get("frozen"))
        model = dict(settings["model"])
        if self._frozen:
            model = {name: value for name, value in model.items() if not name.startswith("image")}
            model |= {"image": None, "embed_dim": settings["model"]["image_width"]}
        model |= {"text_length": self._text["length"], "vocab_size": vocabulary}
        self._make_model = functools.partial(siglip_tf.SigLIP, **model)
        self.model = self._make_model()
        self.model.compile(self._optimizer(given))
        self._optimizer_state = {v.path: v.numpy() for v in self.model.optimizer.variables}
        self._tower_weights = {}
        if given and not self._frozen:
            with np.load(tower_cell(settings).folder(root) / "tower.npz") as file:
                self._tower_weights = dict(file)
        if self._frozen:
            with np.load(tower_cell(settings).folder(root) / "embeddings.npz") as file:
                self._stored = {name: file[name] for name in file.files}
            self._images = self._stored["train"]
        else:
            self._images = store.load_images(self._data, "train", root)
        self._clean = np.concatenate(
            store.load_tokens(self._data, self._text, [f"train_{name}" for name in self._text["languages"]], root), 1
        )  # (n, languages * captions, length)
        self.size = len(self._clean)
        self._corruptions(settings.get("corruption"), vocabulary)
        batch, shape = settings["batch"], self._images.shape[1:]
        every, _ = schedule(settings)
        self.steps = tf.function(
            self._steps,
            autograph=False,
            jit_compile=settings.get("jit", True),
            input_signature=[
                tf.TensorSpec((every, batch, *shape), self._images.dtype),
                tf.TensorSpec((every, batch, self._text["length"]), tf.int32),
                tf.TensorSpec((every, 2), tf.int32),
            ],
        )

    def _optimizer(self, given):
        from siglip_tf.experiments.build import IMAGE_TOWER, SCALARS
        from siglip_tf.optimizers import AdamW, Cosine, ParameterGroup

        settings = self._settings
        _, steps = schedule(settings)
        options = dict(settings["optimizer"])
        scalars = options.pop("scalars_learning_rate")
        warmup = max(1, round(options.pop("warmup") * steps))
        groups = [ParameterGroup(SCALARS, scalars)]
        if given and not self._frozen:
            groups.append(ParameterGroup(IMAGE_TOWER, given["learning_rate_multiplier"], float(given["decay"])))
        return AdamW(1e-3, Cosine(steps, min(warmup, steps)), groups=groups, **options)

    def _corruptions(self, corruption, vocabulary):
        """Texts and alignment are corrupted in the graph, images where batches are made: they may be embeddings."""
        from siglip_tf.data.corruption import Corruption

        self._image_noise, self._corrupt = 0.0, []
        if corruption:
            p = corruption["probability"]
            parts = corruption["kind"].split("_")
            self._image_noise = p if "image" in parts else 0.0
            self._corrupt = [Corruption(part, p, vocab_size=vocabulary) for part in ("text", "batch") if part in parts]

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Weights as a new model of this seed has them, the pretrained tower's laid over them; the optimizer anew."""
        import keras

        self._seed = settings["seed"]
        keras.utils.set_random_seed(self._seed)
        weights = {name: v.numpy() for name, v in self._make_model().named_weights().items()}
        weights["log_temperature"] = np.float32(math.log(settings["model"].get("init_temperature", 10.0)))
        if "bias" in weights:
            weights["bias"] = np.float32(settings["model"]["init_bias"])
        self.model.assign_weights({**weights, **self._tower_weights})
        for variable in self.model.optimizer.variables:
            variable.assign(self._optimizer_state[variable.path])
        self.model.optimizer.learning_rate = settings["optimizer"]["learning_rate"]
        self._rows, self._ids = np.arange(self.size), self._clean
        if settings.get("noise"):
            self._rows, self._ids = store.load_noisy(self._data, self._text, settings["noise"], self._root)

    def batches(self, rows: np.ndarray, first: int) -> tuple[Any, ...]:
        """What `steps` takes for int32 (steps, batch) of pictures, `first` being the number of the first step."""
        import tensorflow as tf

        generator = np.random.default_rng((self._seed, first))
        captions = generator.integers(self._ids.shape[1], size=rows.shape)
        seeds = np.stack(np.broadcast_arrays(self._seed, first + np.arange(len(rows))), 1).astype(np.int32)
        images = self._images[self._rows[rows]]
        if self._image_noise:
            hit = generator.random(rows.shape) < self._image_noise
            images[hit] = self._noise_images(hit.sum(), generator)
        return tf.constant(images), tf.constant(self._ids[rows, captions]), tf.constant(seeds)

    def _noise_images(self, count, generator):
        """Pictures of uniform noise, or what the frozen tower makes of them."""
        if self._frozen:
            return self._stored["noise"][generator.integers(len(self._stored["noise"]), size=count)]
        return generator.integers(0, 256, (count, *self._images.shape[1:]), np.uint8)

    def _steps(self, images, ids, seeds):
        """Runs as many steps as there are batches; float32 (steps,) of every metric."""
        import tensorflow as tf

        count = ids.shape[0]
        names = [name for name in _CURVES if name != "bias" or self.model.bias is not None]

        def step(i, arrays):
            metrics = self.model.train_step(self._batch(images[i], ids[i], seeds[i]))
            return i + 1, [array.write(i, metrics[name]) for name, array in zip(names, arrays, strict=True)]

        arrays = [tf.TensorArray(tf.float32, count, element_shape=()) for _ in names]
        _, arrays = tf.while_loop(lambda i, _: i < count, step, (tf.constant(0), arrays), parallel_iterations=1)
        return {name: array.stack() for name, array in zip(names, arrays, strict=True)}

    def _batch(self, images, ids, seed):
        batch = {"text": ids}
        batch |= {"image_embedding": images} if self._frozen else {"image": tower.normalised(images)}
        for number, corrupt in enumerate(self._corrupt):
            batch = corrupt(batch, seed + number * 1_000_003)
        return batch

    def evaluate(self, last: bool) -> dict[str, Any]:
        """Zero-shot over 1,200 compositions on the pictures of the result and on those that settings are chosen by.

        At the end also on held-out colours and shapes, and text to image retrieval among the pictures of the result.
        """
        from siglip_tf.evaluation import retrieval, zero_shot
        from siglip_tf.evaluation.zero_shot import average_prompts

        names = {"result": "zero_shot", "choosing": "choosing", "held_out": "held_out"}
        images = {part: self._embed_images(part) for part in tuple(names)[: 2 + last]}
        labels = {part: store.load_labels(self._data, part, self._root) for part in images}
        by_language: dict[str, dict[str, float]] = {}
        for language in self._text["languages"]:
            prompts, captions = store.load_tokens(
                self._data, self._text, [f"prompts_{language}", f"result_{language}"], self._root
            )
            classes = average_prompts(self._embed_texts(prompts), store.TEMPLATES)
            found = {names[part]: zero_shot(images[part], classes, labels[part]).top1 for part in images}
            if last:
                texts = self._embed_texts(captions[:, 0])
                recalls = retrieval(images["result"], texts, recall_at=(1, 5)).text_to_image
                found |= {"recall_at_1": recalls[1], "recall_at_5": recalls[5]}
            by_language[language] = found
        means = {name: float(np.mean([one[name] for one in by_language.values()])) for name in found}
        if self._settings.get("few_shot"):
            means["few_shot"] = self._few_shot(images["result"], labels["result"])
        return {**means, "by_language": by_language} if last else means

    def _few_shot(self, images: np.ndarray, labels: np.ndarray) -> float:
        """10-shot accuracy of the image tower alone, over colours and shapes."""
        from siglip_tf.evaluation import few_shot

        train = self._embed_images("train", _FEW_SHOT_FROM)
        known = store.load_labels(self._data, "train", self._root)[: len(train)] % _FEW_SHOT_CLASSES
        labels = labels % _FEW_SHOT_CLASSES
        classes, known = np.unique(known, return_inverse=True)
        counted = np.isin(labels, classes)
        labels = np.searchsorted(classes, labels[counted])
        return few_shot(train, known, images[counted], labels, len(classes)).accuracy

    def _embed_images(self, part, count=None):
        if self._frozen:
            return self._stored[part][:count]
        pixels = self._images if part == "train" else store.load_images(self._data, part, self._root)
        return _in_parts(lambda some: self.model.encode_image(tower.normalised(some)), pixels[:count])

    def _embed_texts(self, ids):
        return _in_parts(self.model.encode_text, ids)


def _in_parts(embed, values):
    starts = range(0, len(values), _EMBEDDED_AT_A_TIME)
    return np.concatenate([embed(values[i : i + _EMBEDDED_AT_A_TIME]).numpy() for i in starts])


def summary(result: Mapping[str, Any]) -> str:
    """Returns two figures for the progress line."""
    return f"zero-shot {result['final']['zero_shot']:.1%}, R@1 {result['final']['recall_at_1']:.1%}"
