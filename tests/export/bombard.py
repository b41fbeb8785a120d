"""`python -m tests.export.bombard EXPORT INPUTS SEED`: sends hostile requests and prints what became of them."""

import resource
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - registers the tokeniser's ops

from tests.export import hostile


def bombard(signatures, inputs: int, seed: int) -> tuple[int, int]:
    """How many of so many requests were answered, and how many refused as invalid; anything else is raised."""
    rng = np.random.default_rng(seed)
    images, texts = hostile.images(seed), hostile.texts(seed)
    sound = hostile.encoded()[:1]

    def requests():
        # Images alone most of the time: they have more ways to be wrong.
        image, text = [next(images)], [next(texts), next(texts)]
        return (
            ("embed_image", {"images": image}),
            ("embed_text", {"texts": text}),
            ("score", {"images": image, "texts": text}),
            ("classify", {"images": sound, "labels": text}),
            ("classify_with_templates", {"images": sound, "labels": ["a"], "templates": text}),
            ("classify_bank", {"images": image}),
            ("embed_image", {"images": image}),
            ("embed_text", {"texts": text[:1]}),
        )[rng.integers(8)]

    answers = refusals = 0
    for _ in range(inputs):
        name, values = requests()
        try:
            answer = signatures[name](**{k: tf.constant(v, tf.string) for k, v in values.items()})
        except tf.errors.InvalidArgumentError:
            refusals += 1
            continue
        for value in answer.values():
            if value.dtype == tf.float32 and not np.isfinite(value).all():
                raise AssertionError(f"{name} answered {value} to {values}")
        answers += 1
    return answers, refusals


def main(path: str, inputs: str, seed: str) -> None:
    """Prints counts, and by how many MB the largest memory of the process grew."""
    signatures = tf.saved_model.load(path).signatures
    start = _memory()
    answers, refusals = bombard(signatures, int(inputs), int(seed))
    print("answers", answers)
    print("refusals", refusals)
    print("grown_mb", _memory() - start)


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
