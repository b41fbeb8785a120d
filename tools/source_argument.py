"""The data source on a tool's command line, and the report of its broken records."""

import argparse
from typing import Any

from siglip_tf.data.sources.base import Source
from siglip_tf.data.sources.opening import USAGE, open_source

SOURCE_HELP = USAGE.replace("%", "%%")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds SOURCE as the next positional argument, and its options."""
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("--split", help="split of TFDS, folders, and synthetic data; the same as SOURCE?split=...")
    parser.add_argument("--report", metavar="FILE", help="JSONL file that names every broken record")


def named_source(options: argparse.Namespace, **more: Any) -> Source:
    """Opens the source that the options of `add_source` name. `more` is passed to `open_source`.

    Raises:
        ValueError: if the source cannot be opened.
    """
    return open_source(options.source, split=options.split, **more)
