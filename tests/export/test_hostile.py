"""A stranger's input gets an answer or an InvalidArgument error, takes bounded memory, and never ends the process."""

import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.export import hostile
from tests.export.bombard import bombard
from tests.export.test_saved_model import ENVIRONMENT

ROOT = pathlib.Path(__file__).parents[2]


def check(answers: int, refusals: int, inputs: int) -> None:
    assert answers + refusals == inputs
    assert refusals > 0.3 * inputs
    assert answers > 0.3 * inputs


@pytest.mark.slow
def test_some_hostile_inputs(signatures):
    check(*bombard(signatures, 70, seed=0), 70)


@pytest.mark.slow
def test_ten_thousand_hostile_inputs(exported):
    """In a process of its own, whose memory is the inputs' alone and whose crash would be seen as one."""
    command = [sys.executable, "-m", "tests.export.bombard", exported.path, "10000", "1"]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    counts = {name: int(count) for name, count in (line.split() for line in result.stdout.splitlines()[-3:])}
    check(counts["answers"], counts["refusals"], 10_000)
    assert counts["grown_mb"] < 1_000


def test_every_huge_picture_is_refused(signatures):
    """All but the wide line, which is no larger than a photograph."""
    embed = signatures["embed_image"]
    answered = []
    for i, data in enumerate(hostile.huge()):
        try:
            embed(images=tf.constant([data]))
            answered.append(i)
        except tf.errors.InvalidArgumentError:
            pass
    assert answered == [8]


def test_sound_pictures_are_answered(signatures):
    """Every encoding that the hostile ones are made from, so that a refusal is not due to the test's own faults."""
    embedding = signatures["embed_image"](images=tf.constant(hostile.encoded()))
    assert embedding["embedding"].shape == (11, 32)


def test_templates_and_empty_requests(signatures):
    image = hostile.encoded()[:1]

    def classify(labels, templates, images=image):
        arguments = {"images": images, "labels": labels, "templates": templates}
        return signatures["classify_with_templates"](
            **{name: tf.constant(value, tf.string, [len(value)]) for name, value in arguments.items()}
        )

    for templates in ([], ["no place"], ["two {} {}"], [""], ["{}", "{"]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="template"):
            classify(["a"], templates)
    assert classify([], ["{}"])["logits"].shape == (1, 0)
    assert classify(["a", "b"], ["{}"], [])["softmax"].shape == (0, 2)
    assert classify([b"\xff", b"", b"{}"], ["a {} b"])["probabilities"].shape == (1, 3)
    pixels = signatures["embed_image_pixels"]
    for shape in ((1, 0, 4, 3), (1, 4, 0, 3)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="height >= 1"):
            pixels(pixels=tf.zeros(shape, tf.uint8))
    assert pixels(pixels=tf.zeros((0, 4, 4, 3), tf.uint8))["embedding"].shape == (0, 32)
    assert pixels(pixels=tf.zeros((1, 1, 1, 3), tf.uint8))["embedding"].shape == (1, 32)
