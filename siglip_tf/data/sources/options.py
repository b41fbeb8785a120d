"""Options that are written behind a source: `SOURCE?caption=title&image=url_path`.

The same line works on every command that takes a source. `NAMES` is the whole vocabulary; each kind of source takes the
part of it that `opening` lists.
"""

import re
import urllib.parse
from collections.abc import Iterable, Mapping

# Every option of every kind, with what its value says.
NAMES = {
    "kind": "how to read it: folder, classes, tar, tfrecord or parquet",
    "suffix": "what the shards of a folder end in",
    "split": "the part to read",
    "image": "column, feature or tar member of the picture",
    "caption": "column, feature, JSON key or tar member of the captions",
    "label": "column, feature or JSON key of the label",
    "language": "column, feature or JSON key of the captions' language",
    "group": "column, feature or JSON key of the group: pictures of one thing share it",
    "id": "column or feature of the record's name",
    "template": "caption of a class name, with {} for the name",
    "separator": "what stands between the columns of a table: a character, or tab",
    "index_dir": "folder for the index of the shards",
    "data_dir": "folder of TensorFlow Datasets",
    "seed": "seed of synthetic data",
    "size": "records of synthetic data",
    "languages": "languages of synthetic data, separated by commas",
    "captions": "captions per image and language of synthetic data",
    "image_size": "pixels a side of synthetic data",
    "level": "simple or crowded synthetic data",
}

# A glob may hold question marks too: options begin at the last one that a key and an equals sign follow.
_OPTIONS = re.compile(r"^(?P<source>.*?)\?(?P<options>[A-Za-z_]\w*=[^?]*)$", re.DOTALL)


def split_options(line: str) -> tuple[str, dict[str, str]]:
    """The source and the options of a line.

    Args:
        line: `SOURCE` or `SOURCE?key=value&key=value`. `%26`, `%3D` and the like in a value stand for characters that
            the syntax uses itself.

    Raises:
        ValueError: an option without a value, or one that comes twice.
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
            raise ValueError(f"The option {key!r} comes twice in {line!r}.")
        options[key] = urllib.parse.unquote(value)
    return match["source"], options


def joined_options(source: str, options: Mapping[str, str]) -> str:
    """A source and its options as one line, which `split_options` takes apart."""
    written = "&".join(f"{key}={urllib.parse.quote(value, safe='/:,{}')}" for key, value in options.items())
    return f"{source}?{written}" if options else source


def check_options(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises an error for options that a kind of source does not take.

    Raises:
        ValueError: an option outside `known`; `what` names the kind of source.
    """
    known = sorted({*known})
    for key in given:
        if key not in known:
            raise ValueError(f"{what} has no option {key!r}. Its options: {', '.join(known)}.")
