"""The benchmark's judge of a server's answers, on answers made by hand."""

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from tools.benchmark._serving_hostile import Attack
from tools.benchmark._serving_verdicts import Judge


@pytest.fixture(scope="module")
def judge():
    score, embed = meta_graph_pb2.SignatureDef(), meta_graph_pb2.SignatureDef()
    for definition, inputs, outputs in (
        (score, {"images": [-1], "texts": [-1]}, {"logits": [-1, -1], "probabilities": [-1, -1]}),
        (embed, {"texts": [-1]}, {"embedding": [-1, 3]}),
    ):
        for group, shapes in ((definition.inputs, inputs), (definition.outputs, outputs)):
            for name, shape in shapes.items():
                for size in shape:
                    group[name].tensor_shape.dim.add().size = size
    return Judge({"score": score, "embed_text": embed})


def test_shapes_and_numbers_of_answers(judge):
    rows = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    texts = {"signature_name": "embed_text", "instances": ["a", "b"]}
    assert judge.rest_answer(texts, {"predictions": rows}) is None
    assert "shape (1, 3)" in judge.rest_answer(texts, {"predictions": rows[:1]})
    assert "shape (2, 2)" in judge.rest_answer(texts, {"predictions": [row[:2] for row in rows]})
    assert "finite" in judge.rest_answer(texts, {"predictions": [*rows[:1], [0.0, float("nan"), 1.0]]})

    pairs = {"signature_name": "score", "inputs": {"images": ["x"], "texts": ["a", "b", "c"]}}
    logits = [[1.0, 2.0, 3.0]]
    assert judge.rest_answer(pairs, {"outputs": {"logits": logits, "probabilities": logits}}) is None
    assert "outputs" in judge.rest_answer(pairs, {"outputs": {"logits": logits, "other": logits}})
    turned = [[value] for value in logits[0]]
    assert "logits of the shape (3, 1)" in judge.rest_answer(
        pairs, {"outputs": {"logits": turned, "probabilities": logits}}
    )

    request, answer = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    request.model_spec.signature_name = "embed_text"
    request.inputs["texts"].CopyFrom(tf.make_tensor_proto(["a", "b"]))
    answer.outputs["embedding"].CopyFrom(tf.make_tensor_proto(rows))
    assert judge.grpc_answer(request, answer) is None
    answer.outputs["embedding"].CopyFrom(tf.make_tensor_proto([*rows, rows[0]]))
    assert "shape (3, 3)" in judge.grpc_answer(request, answer)


def test_words_of_errors(judge):
    assert judge.refusal("texts[1]: expected a string.", Attack(b"", "texts")) is None
    assert "texts" in judge.refusal("images: expected a list.", Attack(b"", "texts"))
    assert judge.refusal("JSON Parse error: The document is empty", Attack(b"")) is None
    assert "no field" in judge.refusal("The server failed to run this request.", Attack(b""))
    assert "sound" in judge.refusal("texts: expected another.", Attack(b"", sound=True))
