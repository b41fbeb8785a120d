"""Asks an exported SavedModel which label fits a picture. It imports only TensorFlow and tensorflow_text.

    python recipes/ask_saved_model.py runs/quickstart/saved_model/1 picture.jpg --labels "a red circle" "a blue star"

A program needs only this code to use an exported model. The quickstart runs it to prove that.
"""

import argparse
import json
import sys
from pathlib import Path

import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the tokenizer's ops)


def ask(model, images: list[bytes], labels: list[str]) -> list[list[dict[str, float | str]]]:
    """Ranks labels for pictures, best first.

    Args:
        model: the result of `tf.saved_model.load`.
        images: the bytes of JPEG or PNG files.
        labels: any texts.

    Returns:
        For each picture and label, "label", "share" (softmax; the shares of all labels sum to 1), and "probability"
        (sigmoid; the probability that the text matches the picture, which does not depend on the other labels). Small
        probabilities are normal. Compare them with each other.
    """
    answer = model.signatures["classify"](images=tf.constant(images), labels=tf.constant(labels))
    ranking, shares, probabilities = (answer[name].numpy() for name in ("ranking", "softmax", "probabilities"))
    return [
        [{"label": labels[i], "share": float(share[i]), "probability": float(probability[i])} for i in order]
        for order, share, probability in zip(ranking, shares, probabilities, strict=True)
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description="Rank labels for pictures by an exported SavedModel.")
    parser.add_argument("model", help="version folder of the SavedModel, such as runs/quickstart/saved_model/1")
    parser.add_argument("images", nargs="+", help="JPEG or PNG files")
    parser.add_argument("--labels", nargs="+", required=True, help="texts to choose from")
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of tables")
    arguments = parser.parse_args(argv)
    model = tf.saved_model.load(arguments.model)
    answers = ask(model, [Path(path).read_bytes() for path in arguments.images], arguments.labels)
    if arguments.json:
        print(json.dumps({"answers": answers, "knows_siglip_tf": "siglip_tf" in sys.modules}))
        return 0
    for path, ranked in zip(arguments.images, answers, strict=True):
        print(path)
        for answer in ranked:
            print(f"{answer['share']:8.1%}  {answer['probability']:.2e}  {answer['label']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
