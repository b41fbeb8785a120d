"""The first sentence of a report, the baseline against its own arithmetic, and what to try next."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from recipes import quickstart
from siglip_tf.experiments.held_out import PartOf, held_out_task, own_data
from siglip_tf.experiments.report.advice import advice, longer_command, warning
from siglip_tf.experiments.report.baseline import Baseline
from siglip_tf.experiments.report.page import Figure
from siglip_tf.experiments.run import seconds_of
from tests.data.memory_source import MemorySource


def png(pixels, mode="RGB"):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_baseline_that_wins_is_the_first_sentence():
    won = Figure("Zero-shot", 0.5, 0.01, baselines={"nearest neighbor": 0.4})
    lost = Figure("Zero-shot", 0.3, 0.01, baselines={"nearest neighbor": 0.4, "the model before training": 0.2})
    assert warning([won]) == ""
    assert lost.winners == ["nearest neighbor"]
    assert warning([won, lost]).startswith("The baseline wins: nearest neighbor reaches 40.0%, this model 30.0%")
    assert "hardly better than chance" in warning([Figure("R@1", 0.011, 0.01)])
    assert warning([]) == ""


def test_what_to_try_next_follows_from_the_run(monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    c = quickstart.RECIPE.settings()
    weak = [Figure("Zero-shot", 0.3, 0.01, baselines={"nearest neighbor": 0.4})]
    rising = [{"step": i, "loss": 5.0 - i / 20, "held_out/top1": i / 100} for i in range(1, 40)]
    command = "python -m recipes.quickstart --data 'my pictures' --fresh --steps 1200"
    run = {"steps": 1200, "examples": 3_000, "seconds": 600, "command": command, "continues": True}
    said = " ".join(advice(c, weak, rising, **run))
    assert "continues from the last step and takes about 45 minutes more here" in said  # an hour for the whole
    assert "recipes.quickstart --data 'my pictures' --steps 6600 " in said
    assert "recipes.finetune" in said and "smaller patches" not in said and "Vary" not in said
    flat = [{"step": i, "loss": 1.0, "held_out/top1": 0.3} for i in range(1, 40)]
    quickstart.synthetic(c)
    said = " ".join(advice(c, weak, flat, steps=1200, examples=3_000, seconds=300))
    assert "Train longer: the figures" not in said
    noisy = [{"step": i, "held_out/top1": top1} for i, top1 in enumerate((0.486, 0.476, 0.504, 0.486, 0.498))]
    said = " ".join(advice(c, weak, noisy, steps=1200, examples=3_000, seconds=300))
    assert "Train longer: the figures" not in said
    assert "patches a picture" not in said  # they are for more pairs than these
    assert "sees 9 patches" in " ".join(advice(c, weak, flat, steps=1200, examples=30_000, seconds=300))
    assert "augment.shift=0.1" in said
    assert advice(c, [Figure("Zero-shot", 0.99, 0.01)], flat, 1200, 3_000, 300) == []
    assert advice(c, [], flat, 1200, 3_000, 300) == []


def test_the_command_that_trains_longer_is_the_one_that_was_given(monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    given = "python -m recipes.finetune lora --start a --data=b --set duration=3 --set tune.lora_rank=4"
    expected = "python -m recipes.finetune lora --start a --set tune.lora_rank=4 '--set=duration=90 steps' --fresh"
    assert longer_command(given, 90, False).replace("--data b ", "") == expected
    monkeypatch.setenv("MAKELEVEL", "1")
    given = "python -m recipes.quickstart --data 'my pictures' --seed 2"
    assert longer_command(given, 90, True) == "make quickstart DATA='my pictures' ARGS='--seed 2 --steps 90'"
    assert longer_command("python -m recipes.quickstart", 90, True) == "make quickstart ARGS='--steps 90'"


def test_the_nearest_picture_is_that_of_numpy():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    texts = [f"word{i} common" for i in range(30)]
    train = MemorySource(30, {i: {"image": png(pixels[i]), "captions": [texts[i]]} for i in range(30)})
    asked = np.clip(pixels[:10].astype(int) + random.integers(-60, 60, (10, 16, 16, 3)), 0, 255).astype(np.uint8)
    images = [png(p) for p in asked]
    baseline = Baseline(train)
    distances = ((asked[:, None].astype(float) - pixels[None, :30].astype(float)) ** 2).sum((2, 3, 4))
    np.testing.assert_array_equal(baseline.nearest(images), distances.argmin(1))
    # Captions of the nearest pictures find their own, except where two pictures are nearest to the same one.
    assert baseline.recall(images, [[texts[i]] for i in range(10)]) == 1.0
    assert baseline.accuracy(images, np.arange(10)) == 1.0  # the source's label is the record's number modulo 10
    assert baseline.accuracy(images, np.full(10, -1)) == 0.0  # nothing to count


def test_a_part_of_a_source_is_the_same_records_under_new_numbers():
    whole = MemorySource(20)
    for indices in ([5, 6, 7, 8], [1, 4, 19]):
        part = PartOf(whole, np.array(indices))
        assert part.size == len(indices)
        ids = [f"memory-{i}".encode() for i in indices]
        assert [part.fetch(i)["id"] for i in range(part.size)] == ids
        read = tf.data.Dataset.range(part.size).map(part.read)
        assert [example["id"] for example in read.as_numpy_iterator()] == ids
        assert [part.locate(i) for i in range(part.size)] == [whole.locate(i) for i in indices]
    assert PartOf(whole, np.array([1, 2])).fingerprint != PartOf(whole, np.array([1, 3])).fingerprint


def test_seconds_are_those_of_the_logged_speeds():
    metrics = [{"step": 1}, {"step": 11, "images_per_second": 64.0}, {"step": 21, "images_per_second": 32.0}]
    assert seconds_of(metrics, 64) == pytest.approx(1 + 10 + 20)
    assert seconds_of([], 64) == 0.0


def test_twins_and_unusable_records_take_no_part_in_the_held_out_task(tmp_path):
    from tests.experiments.test_held_out import write_folder

    rows = [{"image": f"{i}.png", "caption": f"shape {i % 6}", "split": "train" if i < 4 else "test"} for i in range(8)]
    part = own_data(write_folder(tmp_path / "data", rows))
    # shape 0 and shape 1 are captions of training pictures too.
    assert sorted(part.held_out.fetch(i)["captions"][0] for i in range(part.held_out.size)) == [b"shape 4", b"shape 5"]
    task = held_out_task(part)
    assert task.name == "retrieval/held_out" and len(task.images) == 2
