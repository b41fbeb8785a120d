"""Tasks end to end on a tiny model: figures equal those worked out from its embeddings with scikit-learn and numpy."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from siglip_tf.data import canonicalize
from siglip_tf.evaluation import few_shot, readers, retrieval
from siglip_tf.evaluation.callback import EvaluationCallback
from siglip_tf.evaluation.embed import Embedder
from siglip_tf.evaluation.report import html_report, thumbnail
from siglip_tf.evaluation.results import table
from siglip_tf.evaluation.task_names import parse_task
from siglip_tf.evaluation.tasks import Evaluation, FewShotTask, RetrievalTask, ZeroShotTask
from tests.evaluation.layouts import write_coco, write_folder, write_xm3600
from tests.example_model import example_model
from tests.replicas import two_replicas

CLASSES = {"red circle": 9, "blue square": 7, "green_star": 8, "x": 3, "y": 2, "z": 4, "<b>&": 1}


@pytest.fixture(scope="module")
def model():
    return example_model()


@pytest.fixture(scope="module")
def evaluation(model):
    return Evaluation(Embedder(model, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    write_folder(root / "train", CLASSES)
    write_folder(root / "test", CLASSES, seed=1)
    write_coco(root / "coco", images=12)
    write_xm3600(root / "xm3600")
    return root


def image_vectors(model, images, pooled=False):
    pixels = tf.stack([model.preprocessing.image(example["image"]) for example in images.examples])
    return np.asarray(model.image(pixels) if pooled else model.encode_image(pixels), float)


def text_vectors(model, texts):
    # Texts of the same tokens tie; embedded apart they would differ in the last digit.
    ids, position = np.unique(model.preprocessing.text(list(texts)), axis=0, return_inverse=True)
    return np.asarray(model.encode_text(ids), float)[position.ravel()]


def test_zero_shot(model, evaluation, folder):
    images = readers.labelled_folder(str(folder / "test"), ["g s", "red", "blue", "d", "e", "f", "g"])
    (result,) = evaluation.run([ZeroShotTask(images, ("a {}.", "{}"))])
    prompts = [t.format(canonicalize(c)) for c in images.class_names for t in ("a {}", "{}")]
    classes = text_vectors(model, prompts).reshape(7, 2, -1).mean(axis=1)
    scores = image_vectors(model, images) @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T
    predicted = scores.argmax(axis=1)
    assert result.metrics["top1"] == top_k_accuracy_score(images.labels, scores, k=1, labels=range(7))
    assert result.metrics["top5"] == top_k_accuracy_score(images.labels, scores, k=5, labels=range(7))
    matrix = confusion_matrix(images.labels, predicted, labels=range(7))
    for right, wrong, count in result.confusions:
        assert matrix[images.class_names.index(right), images.class_names.index(wrong)] == count
    assert sum(count for *_, count in result.confusions) == len(images) - np.trace(matrix)
    assert result.chance == pytest.approx({"top1": 1 / 7, "top5": 5 / 7, "mean_per_class": 1 / 7})
    (query, *_) = result.queries["Wrong, the surest first"]
    assert query.answers[0].logit == pytest.approx(10 * scores[query.image].max() - 3, abs=1e-4)
    assert not query.answers[0].right


def test_present_classes_alone_may_be_predicted(evaluation, folder):
    images = readers.labelled_folder(str(folder / "test"))
    some = images.subset(np.flatnonzero(np.isin(images.labels, [0, 5])))
    (result,) = evaluation.run([ZeroShotTask(some, class_subset="present")])
    assert result.chance["top1"] == 0.5
    assert set(result.rows) == {images.class_names[0], images.class_names[5]}
    assert "7 classes, 2 of them may be predicted" in result.notes[0]


def test_retrieval(model, evaluation, folder):
    images = readers.coco(str(folder / "coco"))
    (result,) = evaluation.run([RetrievalTask(images)])
    owner = np.repeat(np.arange(len(images)), [len(c) for c in images.captions])
    texts = text_vectors(model, [c for several in images.captions for c in several])
    expected = retrieval(image_vectors(model, images), texts, owner).to_dict()
    assert result.metrics == expected
    # Chance: a thousand random rankings.
    rng = np.random.default_rng(0)
    drawn = [retrieval(rng.normal(size=(len(images), 9)), rng.normal(size=(len(owner), 9)), owner) for _ in range(1000)]
    for name, chance in result.chance.items():
        assert np.mean([one.to_dict()[name] for one in drawn]) == pytest.approx(chance, abs=0.03)


def test_36_languages(model, evaluation, folder):
    """The table has a row for each language; the figures are their mean."""
    images = readers.xm3600(str(folder / "xm3600"))
    (result,) = evaluation.run([RetrievalTask(images)])
    vectors = image_vectors(model, images)
    for language, captions in images.languages.items():
        kept = [i for i, several in enumerate(captions) if several]
        owner = np.repeat(np.arange(len(kept)), [len(captions[i]) for i in kept])
        texts = text_vectors(model, [c for several in captions for c in several])
        assert result.rows[language] == retrieval(vectors[kept], texts, owner).to_dict()
    for name, value in result.metrics.items():
        assert value == pytest.approx(np.mean([row[name] for row in result.rows.values()]), abs=1e-12)
    text = table([result])
    assert re.search(r"^quz +\d+\.\d\d", text, re.MULTILINE)
    assert len([line for line in text.splitlines() if re.match(r"[a-z]{2,3} ", line)]) == 36
    assert "mi 1 images without a caption are left out" in text


def test_few_shot_embeds_only_what_it_draws(model, folder):
    train, test = (readers.labelled_folder(str(folder / part)) for part in ("train", "test"))
    done = {}
    evaluation = Evaluation(Embedder(model, 16), lambda name, count, total: done.update({name: (count, total)}))
    (result,) = evaluation.run([FewShotTask(train, test, shots=2)])
    expected = few_shot(
        image_vectors(model, train, pooled=True),
        train.labels,
        image_vectors(model, test, pooled=True),
        test.labels,
        7,
        shots=2,
    )
    assert result.metrics == {"2shot": expected.accuracy}
    assert [row["accuracy"] for row in result.rows.values()] == list(expected.per_seed)
    assert done["train"][1] < len(train)
    assert done["test"] == (len(test), len(test))


def test_report_shows_everything_and_escapes_it(evaluation, folder, tmp_path):
    tasks = [
        ZeroShotTask(readers.labelled_folder(str(folder / "test"))),
        RetrievalTask(readers.coco(str(folder / "coco"))),
        RetrievalTask(readers.xm3600(str(folder / "xm3600"))),
        FewShotTask(*(readers.labelled_folder(str(folder / part)) for part in ("train", "test")), shots=2),
    ]
    results = evaluation.run(tasks)
    page = html_report(results, "a <model>", {"date": "today"})
    for part in ("zero_shot/test", "retrieval/coco-test", "few_shot/test", "quz", "&lt;b&gt;&amp;", "a &lt;model&gt;"):
        assert part in page
    assert "<b>&<" not in page
    assert "http" not in page.replace("data:image", "")
    assert page.count("data:image/jpeg;base64,") > 20
    json.dumps([result.to_dict() for result in results])
    assert "logit" not in html_report(results, "softmax", {}, sigmoid_scores=False)


def test_thumbnails_keep_the_aspect():
    image = tf.io.encode_png(tf.zeros([100, 400, 3], tf.uint8)).numpy()
    assert tf.io.decode_jpeg(thumbnail(image, 112)).shape == (28, 112, 3)
    assert tf.io.decode_jpeg(thumbnail(image, 1000)).shape == (100, 400, 3)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_callback_logs_for_those_behind_it(replicas, folder, tmp_path):
    strategy = two_replicas() if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = example_model()
    task = ZeroShotTask(readers.labelled_folder(str(folder / "test")))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32),
        "text": rng.integers(1, 50, (4, 8)).astype(np.int32),
    }
    with strategy.scope():
        model.compile(optimizer=keras.optimizers.SGD(1e-3))
    callbacks = [
        EvaluationCallback([task], every_epochs=2, batch_size=16, jsonl=tmp_path / "figures.jsonl"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5", monitor="zero_shot/test/top1", mode="max", save_best_only=True,
            save_weights_only=True,
        ),
    ]  # fmt: skip
    data = tf.data.Dataset.from_tensors(batch)
    with pytest.warns(UserWarning, match="Can save best model only with zero_shot/test/top1 available"):
        history = model.fit(data, epochs=3, callbacks=callbacks, verbose=0).history
    lines = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(2, 2), (3, 3)]
    assert history["zero_shot/test/top1"] == [line["zero_shot/test/top1"] for line in lines]
    assert (tmp_path / "best.weights.h5").exists()
    (result,) = Evaluation(Embedder(model, 16)).run([task])
    assert lines[-1]["zero_shot/test/top1"] == result.metrics["top1"]


def test_task_names(folder, tmp_path):
    task = parse_task(f"zero_shot:folder={folder}/test,templates=photos,limit=5,subset=present")
    assert (task.name, len(task.images), len(task.templates)) == ("zero_shot/test", 5, 9)
    assert parse_task(f"retrieval:coco={folder}/coco,split=val2014").name == "retrieval/coco-val2014"
    assert parse_task(f"retrieval:xm3600={folder}/xm3600").name == "retrieval/xm3600"
    (tmp_path / "some.txt").write_text("z\nblue square\n")
    some = parse_task(f"zero_shot:folder={folder}/test,subset={tmp_path}/some.txt,limit=9")
    assert (some.class_subset.tolist(), len(some.images), set(some.images.labels)) == ([1, 6], 9, {1, 6})
    # The classes of all images, not of the few that the limit keeps.
    assert len(parse_task(f"zero_shot:folder={folder}/test,subset=present,limit=2").class_subset) == 7
    (tmp_path / "some.txt").write_text("z\nno such class\n")
    with pytest.raises(ValueError, match="does not have, 'no such class' for one"):
        parse_task(f"zero_shot:folder={folder}/test,subset={tmp_path}/some.txt")
    probe = parse_task(f"few_shot:folder={folder},shots=3,seeds=2")
    assert (probe.shots, probe.seeds, probe.name) == (3, 2, "few_shot/test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear:folder=x", "expected a kind among zero_shot, retrieval, few_shot"),
        (
            "zero_shot:coco=x",
            "expected zero_shot:folder=..., zero_shot:objectnet=..., zero_shot:source=..., zero_shot:tfds=...",
        ),
        ("zero_shot:folder", "expected zero_shot:folder=..."),
        ("retrieval:coco=x,templates=photo", "'templates=photo' is none of the options"),
        ("zero_shot:folder=FOLDER/test,limit=0", "limit to be a positive number"),
        ("zero_shot:folder=FOLDER/test,subset=/nowhere", "There is no file '/nowhere'"),
        ("zero_shot:folder=/nowhere", "/nowhere is not a folder"),
        ("zero_shot:folder=FOLDER/test,class_names=/nowhere", "There is no file '/nowhere'"),
    ],
)
def test_bad_task_names(text, message, folder):
    with pytest.raises(ValueError, match=message):
        parse_task(text.replace("FOLDER", str(folder)))


def test_tasks_need_what_they_measure(folder):
    labelled, captioned = readers.labelled_folder(str(folder / "test")), readers.coco(str(folder / "coco"))
    for make in (
        lambda: ZeroShotTask(captioned),
        lambda: FewShotTask(captioned, labelled),
        lambda: RetrievalTask(labelled),
    ):
        with pytest.raises(ValueError, match=r"has no (labels|single label|captions)"):
            make()
