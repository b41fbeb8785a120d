"""Writes scikit-learn's 1,797 handwritten digits as pictures with captions: a small real data set without a download.

    python -m tools.digits runs/digits
    make quickstart DATA=runs/digits

The folder contains one PNG file per digit, `images/SPLIT/LABEL/NUMBER.png`, and `captions.jsonl`, whose lines contain
"image", "captions", "label", and "split". Every third digit is held out ("test"). Install scikit-learn with
`pip install -e .[test]` or `pip install scikit-learn`.
"""

import argparse
import io
import json
import random
import sys
from pathlib import Path

import numpy as np

from siglip_tf.storage import write_file

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SENTENCES = (
    "a handwritten {}",
    "the digit {}",
    "the number {} written by hand",
    "a scan of the digit {}",
    "someone wrote a {}",
    "{} in handwriting",
    "a grey picture of the number {}",
    "this is a {}",
)
_SIDE = 64
_CAPTIONS = 4


def captions(digit: int, generator: random.Random) -> list[str]:
    """Returns four captions of a digit with different sentences. The digit is a word or a numeral."""
    sentences = generator.sample(_SENTENCES, _CAPTIONS)
    return [sentence.format(generator.choice((_WORDS[digit], str(digit)))) for sentence in sentences]


def png(pixels: np.ndarray) -> bytes:
    """Converts a digit of scikit-learn, float (8, 8) from 0 to 16, to a PNG file of 64 x 64 pixels, dark on light."""
    from PIL import Image

    ink = Image.fromarray((255 - pixels * (255 / 16)).astype(np.uint8))
    buffer = io.BytesIO()
    ink.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, seed: int = 0) -> int:
    """Writes pictures and captions, and returns the number of pictures.

    The captions are written last, so that a folder with captions is complete.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    generator = random.Random(seed)
    lines = []
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        split, label = "test" if number % 3 == 2 else "train", _WORDS[digit]
        name = f"images/{split}/{label}/{number:04d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(pixels))
        record = {
            "image": name,
            "captions": captions(int(digit), generator),
            "label": label,
            "split": split,
        }
        lines.append(json.dumps(record) + "\n")
    write_file(folder / "captions.jsonl", "".join(lines))
    return len(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.digits",
        description="Write scikit-learn's handwritten digits as pictures with captions, for `make quickstart DATA=`.",
    )
    parser.add_argument("folder", type=Path, help="folder to write, such as runs/digits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the captions' wording (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        count = write(arguments.folder, arguments.seed)
    except ModuleNotFoundError as error:
        print(f"error: {error}. The digits are part of scikit-learn: pip install scikit-learn", file=sys.stderr)
        return 2
    print(f"{count:,} digits in {arguments.folder}; next: make quickstart DATA={arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
