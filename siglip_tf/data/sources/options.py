"""Options that follow a source: `SOURCE?caption=title&image=url_path`.

The same line works with every command that takes a source. `NAMES` lists all options. `opening` lists the options that
each kind of source takes.
"""

import re
import urllib.parse
from collections.abc import Iterable, Mapping

# All options and the meanings of their values.
NAMES = {
    "kind": "how to read it: folder, classes, tar, tfrecord or parquet",
    "suffix": "suffix of the shards in a folder",
    "split": "split to read",
    "image": "column, feature or tar member of the picture",
    "caption": "column, feature, JSON key or tar member of the captions",
    "label": "column, feature or JSON key of the label",
    "language": "column, feature or JSON key of the captions' language",
    "group": "column, feature or JSON key of the group, which pictures of the same thing share",
    "id": "column or feature of the record's name",
    "template": "caption of a class name, with {} for the name",
    "separator": "separator between the columns of a table: a character, or tab",
    "index_dir": "folder for the index of the shards",
    "data_dir": "folder of TensorFlow Datasets",
    "seed": "seed of synthetic data",
    "size": "records of synthetic data",
    "languages": "languages of synthetic data, separated by commas",
    "captions": "captions per image and language of synthetic data",
    "image_size": "pixels a side of synthetic data",
    "level": "simple or crowded synthetic data",
}

# A glob may hold question marks, too. Options begin at the last question mark with a key and an equals sign after it.
_OPTIONS = re.compile(r"^(?P<source>.*?)\?(?P<options>[A-Za-z_]\w*=[^?]*)$", re.DOTALL)


def split_options(line: str) -> tuple[str, dict[str, str]]:
    """Splits a line into the source and its options.

    Args:
        line: `SOURCE` or `SOURCE?key=value&key=value`. In a value, write characters of the syntax as `%26`, `%3D`, and
            so on.

    Raises:
        ValueError: an option has no value or occurs twice.
    """
    match = _OPTIONS.match(line)
    if match is None:
        return line, {}
    options: dict[str, str] = {}
    for part in match["options"].split("&"):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"Expected SOURCE?key=value&key=value. Received: {part!r} in {line!r}")
        if key in options:
            raise ValueError(f"The option {key!r} occurs twice in {line!r}.")
        options[key] = urllib.parse.unquote(value)
    return match["source"], options


def joined_options(source: str, options: Mapping[str, str]) -> str:
    """Joins a source and its options to one line, which `split_options` splits."""
    written = "&".join(f"{key}={urllib.parse.quote(value, safe='/:,{}')}" for key, value in options.items())
    return f"{source}?{written}" if options else source


def check_options(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises an error for options that a kind of source does not take.

    Raises:
        ValueError: an option is not in `known`. `what` names the kind of source in the message.
    """
    known = sorted({*known})
    for key in given:
        if key not in known:
            raise ValueError(f"{what} has no option {key!r}. Its options: {', '.join(known)}.")
