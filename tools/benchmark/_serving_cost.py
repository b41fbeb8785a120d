"""What the served path costs beside the bare towers, both in this process.

"Bare" is the tower as a compiled function of float images or token ids; "served" is the SavedModel's signature, from
JPEG bytes (375 x 500 and 768 x 1024 in turn, made here) and strings to embeddings or probabilities. Both are timed in
turn, round after round, and a ratio is the median of the rounds' ratios, so that what else the machine does hits both
sides of it.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..packages import TOOLS
from .data import SHAPES, photograph

_WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "red",
    "blue",
    "small",
    "large",
    "old",
    "cat",
    "dog",
    "boat",
    "house",
    "tree",
    "under",
)


def texts(count: int) -> list[str]:
    """Captions of nine words."""
    return [" ".join(_WORDS[(i * 7 + j * 5) % len(_WORDS)] for j in range(9)) for i in range(count)]


def random_model(image: str, text: str):
    """A model of the named towers at 224 pixels, with random weights, and preprocessing of its own."""
    import siglip_tf
    from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
    from siglip_tf.data.text.training import train_tokenizer

    vocabulary = train_tokenizer(texts(1_000), vocab_size=200)
    model = siglip_tf.SigLIP(image=image, text=text, image_size=224, text_length=64, vocab_size=32_000)
    model.preprocessing = Preprocessing(ImagePreprocessing(224), Tokenizer(vocabulary, 64))
    return model


def exported(model, folder: Path, precision: str) -> tuple[str, float]:
    """The version folder, and the seconds of `python -m tools.export`, reading the checkpoint and asking included."""
    model.save_checkpoint(folder / "checkpoint")
    command = [sys.executable, "-m", f"{TOOLS}.export", str(folder / "checkpoint"), str(folder / "served")]
    started = time.perf_counter()
    done = subprocess.run([*command, "--precision", precision], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"The export failed:\n{done.stdout}{done.stderr}")
    return str(folder / "served" / "1"), time.perf_counter() - started


def pairs(model, path: str, batch: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Bare and served functions by the name of what they compute; each waits for its numbers."""
    import tensorflow as tf

    signatures = tf.saved_model.load(path).signatures
    encoded = tf.constant([photograph(*SHAPES[i % len(SHAPES)], seed=i) for i in range(batch)])
    strings = tf.constant(texts(batch))
    images = tf.stack([model.preprocessing.image(data) for data in encoded])
    ids = model.preprocessing.text(strings)
    encode_image, encode_text = (tf.function(f, autograph=False) for f in (model.encode_image, model.encode_text))

    @tf.function(autograph=False)
    def both(images, ids):
        return tf.sigmoid(model.logits(model.encode_image(images), model.encode_text(ids)))

    def bare(function, *inputs):
        return lambda: function(*inputs).numpy()

    def served(signature, output, **inputs):
        def run():
            return signatures[signature](**inputs)[output].numpy()

        return run

    return {
        "embed_image": (bare(encode_image, images), served("embed_image", "embedding", images=encoded)),
        "embed_text": (bare(encode_text, ids), served("embed_text", "embedding", texts=strings)),
        "score": (bare(both, images, ids), served("score", "probabilities", images=encoded, texts=strings)),
    }


def measure(functions_by_name: dict, rounds: int) -> dict[str, list[list[float]]]:
    """Seconds of bare and served by name, a list per round."""
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in functions_by_name}
    for turn in range(rounds + 1):
        for name, functions in functions_by_name.items():
            for side in (0, 1) if turn % 2 else (1, 0):
                started = time.perf_counter()
                functions[side]()
                if turn:  # the first one traces
                    seconds[name][side].append(time.perf_counter() - started)
            print(f"\r  round {turn}/{rounds}, {name:12}", end="", file=sys.stderr, flush=True)
    print(f"\r{'':40}\r", end="", file=sys.stderr)
    return seconds
