"""Inspects a data set before training, and writes a page with samples as the model sees them.

    python -m tools.inspect_data SOURCE [--checkpoint PATH | --tokenizer FILE --text-length N] [--out page.html]

It prints the number of records used and skipped by cause, image sizes, caption lengths, and how many captions lose
tokens. The page shows the same with charts, the first broken records by name, and a contact sheet, which is also
written as a PNG file beside the page. For example:

    python -m tools.inspect_data "shards/{00000..00331}.tar" --checkpoint siglip_b16 --out cc3m.html
    python -m tools.inspect_data tfds:coco_captions --split validation --limit 1000
    python -m tools.inspect_data "photos?caption=title&image=url_path"
    python -m tools.inspect_data synthetic --limit 500
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from siglip_tf import checkpoints
from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.inspection import Inspection, inspect
from siglip_tf.data.preprocessing import METHODS
from siglip_tf.storage import write_file

from .command import command_parser, exit_status
from .inspect_page import contact_sheet, page
from .progress_line import ProgressLine, clock
from .source_argument import add_source, named_source


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    arguments = command_parser("inspect_data", __doc__)
    add_source(arguments)
    arguments.add_argument("--limit", type=int, default=10_000, help="records to draw at random (%(default)s)")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the draw (%(default)s)")
    arguments.add_argument("--samples", type=int, default=24, help="pictures on the sheet (%(default)s)")
    arguments.add_argument("--checkpoint", metavar="PATH", help="prepare images and texts as for this checkpoint")
    arguments.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of an image in pixels (default: the checkpoint's, or 224)",
    )
    arguments.add_argument(
        "--method", choices=METHODS, help="how to resize images (default: the checkpoint's, or big_vision)"
    )
    arguments.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model, to count tokens")
    arguments.add_argument(
        "--text-length", type=int, metavar="N", help="tokens per text (default: the checkpoint's, or 64)"
    )
    arguments.add_argument("--out", metavar="FILE", default="data.html", help="page to write (%(default)s)")
    return arguments


def preprocessing(options: argparse.Namespace) -> Preprocessing:
    """Returns the preprocessing that the options and the checkpoint describe.

    Raises:
        ValueError: if the checkpoint cannot be read, or the tokenizer is not a SentencePiece model.
    """
    image: dict = {"size": 224}
    text: dict = {"length": 64}
    proto = None
    if options.checkpoint is not None:
        found = checkpoints.read(options.checkpoint, options.tokenizer)
        known = found.preprocessing or {}
        image |= known.get("image") or {}
        text |= known.get("text") or {}
        proto = found.tokenizer
    elif options.tokenizer is not None:
        proto = Path(options.tokenizer).read_bytes()
    given = {"size": options.image_size, "method": options.method}
    image |= {key: value for key, value in given.items() if value is not None}
    if options.text_length is not None:
        text["length"] = options.text_length
    return Preprocessing(ImagePreprocessing(**image), None if proto is None else Tokenizer(proto, **text))


def summary(found: Inspection) -> str:
    """Returns the results as lines of text."""
    share = f"{found.read:,} of {found.size:,} records" if found.read < found.size else f"all {found.size:,} records"
    lines = [
        f"{found.source}: {share} read = {found.used:,} used + {found.read - found.used:,} skipped",
        f"skipped:     {_counted(found.skipped)}",
    ]
    if not found.used:
        return "\n".join(lines)
    lines += [
        f"formats:     {_counted(found.formats)}",
        f"height:      {_spread(found.heights)} pixels",
        f"width:       {_spread(found.widths)} pixels",
        f"bytes:       {_spread(found.bytes)}",
        f"one colour:  {found.flat_images:,} images",
        f"special:     {found.turned:,} images turned by EXIF, {found.transparent:,} transparent, {found.cmyk:,} CMYK; "
        f"captions: {found.control_characters:,} with control characters, {found.token_names:,} that spell a token",
        f"captions:    {len(found.characters):,}; an image {_spread(found.captions_an_image)}; "
        f"{found.repeated_captions:,} repeat an earlier one",
        f"characters:  {_spread(found.characters)}",
    ]
    if found.tokens is not None:
        cut = f"{found.truncated:.2%} of the captions are cut to {found.text_length}"
        lines.append(f"tokens:      {_spread(found.tokens)}; {cut}")
    else:
        lines.append("tokens:      not counted: name a --checkpoint or a --tokenizer")
    if found.languages:
        lines.append(f"languages:   {_counted(found.languages)}")
    if found.labels:
        counts = found.labels.values()
        lines.append(f"labels:      {len(found.labels):,} different, {min(counts):,} to {max(counts):,} images each")
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"


def _spread(values: np.ndarray) -> str:
    least, low, middle, high, most = np.percentile(values, [0, 5, 50, 95, 100])
    return f"{least:,.0f} to {most:,.0f}, median {middle:,.0f}, nine in ten {low:,.0f} to {high:,.0f}"


def _run(options: argparse.Namespace) -> None:
    out = Path(options.out)
    if out.suffix != ".html":
        raise ValueError(f"--out names the page and must end in .html. Received: {options.out!r}")
    owned = preprocessing(options)
    source = named_source(options)
    for note in source.notes:
        print(f"note:        {note}", flush=True)
    line = ProgressLine(log_seconds=None)
    found = inspect(
        source,
        owned,
        limit=options.limit,
        seed=options.seed,
        samples=options.samples,
        report=options.report,
        progress=lambda done, total, seconds_left: line.say(
            f"{done:,} of {total:,} records, {clock(seconds_left)} left", last=done == total
        ),
    )
    print(summary(found))
    written = {out: page(found, owned.image).encode(errors="backslashreplace")}
    if found.samples:
        written[out.with_suffix(".png")] = contact_sheet(found.samples)
    for path, content in written.items():
        write_file(path, content)
    print(f"page:        {' and '.join(map(str, written))}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parser().parse_args(argv)
    return exit_status(lambda: _run(options), fault=2, prefix="error: ")


if __name__ == "__main__":
    sys.exit(main())
