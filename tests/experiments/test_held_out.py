import json

import pytest
import tensorflow as tf

from siglip_tf.data.sources.opening import open_source
from siglip_tf.evaluation import make_prompts
from siglip_tf.experiments import held_out
from siglip_tf.synthetic import COMPOSITIONS, HELD_OUT, class_prompts


def write_folder(path, rows):
    path.mkdir(exist_ok=True)
    picture = tf.io.encode_png(tf.zeros([4, 4, 3], tf.uint8)).numpy()
    for row in rows:
        (path / row["image"]).write_bytes(picture)
    (path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_scenes_ask_about_every_composition_in_the_words_of_the_grammar():
    task = held_out.scenes(seed=0, images=5)
    prompts = make_prompts(task.labels, task.templates, canonical=False)
    assert prompts == [prompt for each in class_prompts("en") for prompt in each]
    assert len(task.labels) == len(COMPOSITIONS) and set(task.held_out_labels) == HELD_OUT
    assert task.held_out.size == task.seen.size == 5
    assert len({task.train.fingerprint, task.held_out.fingerprint, task.seen.fingerprint}) == 3


def test_a_folder_with_labels_gets_its_prompts_from_its_training_captions(tmp_path):
    rows = [
        {
            "image": f"{i}.png",
            "captions": [f"a photo of the {kind}", f"{kind} number {i}"],
            "label": kind,
            "split": split,
        }
        for i, (kind, split) in enumerate([("cat", "train"), ("dog", "train"), ("cat", "val"), ("dog", "val")] * 3)
    ]
    task = held_out.own_data(write_folder(tmp_path / "pets", rows))
    assert task.title.endswith("pets")
    assert task.labels == ["cat", "dog"] and task.templates == ["a photo of the {}"]
    assert (task.train.size, task.held_out.size) == (6, 6)
    assert set(task.texts) == {text for row in rows if row["split"] == "train" for text in row["captions"]}


def test_numbers_as_labels_stand_for_themselves_and_no_labels_are_none(tmp_path):
    rows = [{"image": f"{i}.png", "caption": f"shape {i % 3}", "label": i % 3, "split": s} for i in range(9) for s in
            [("train", "test")[i % 2]]]  # fmt: skip
    assert held_out.own_data(write_folder(tmp_path / "a", rows)).labels == ["0", "1", "2"]
    for row in rows:
        del row["label"]
    task = held_out.own_data(write_folder(tmp_path / "b", rows))
    assert task.labels == [] and list(task.templates) == ["{}"]


def test_nothing_held_out_is_an_error_that_says_what_to_do(tmp_path):
    rows = [{"image": "0.png", "caption": "a", "split": "train"}]
    with pytest.raises(ValueError, match="call some rows of its split column 'test'"):
        held_out.own_data(write_folder(tmp_path / "c", rows))


def test_prompts_fall_back_where_captions_do_not_name_labels():
    assert "a photo of {}" in held_out.prompts_from_captions(["nothing here", "{} braces"], ["cat", "dog"])
    # A sentence that only ever names one of three labels is a description, not a prompt.
    captions = ["the cat sat"] * 9 + ["one cat", "one Dog", "one cow", "see cat+", "a category"]
    assert held_out.prompts_from_captions(captions, ["cat", "dog", "cow"]) == ["one {}"]


def test_captions_that_are_not_text_are_passed_over(tmp_path):
    rows = [{"image": "0.png", "captions": ["good", "bad \ud800"], "split": "train"}]
    source = open_source(write_folder(tmp_path / "d", rows), split="train")
    assert list(held_out.captions_of(source)) == ["good"]


def test_a_held_out_part_of_broken_records_alone_says_why(tmp_path):
    """A table whose paths miss a folder: nothing of it can be evaluated."""
    rows = [{"image": f"{i}.png", "caption": f"number {i}", "split": "test" if i % 3 else "train"} for i in range(9)]
    folder = write_folder(tmp_path / "missing", rows)
    for row in rows:
        (tmp_path / "missing" / row["image"]).unlink()
    with pytest.raises(
        ValueError, match="None of 6 records held out of .* can be used: 6 missing_image among the first 6"
    ):
        held_out.held_out_task(held_out.own_data(folder))
