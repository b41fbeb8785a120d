"""Groups of records: pictures of the same thing share a group, and are not negatives of each other.

A group is a whole number, 0 or greater, or a text. A text becomes a number by a hash that is the same in every process,
in every release, and for every kind of source. A record without a group has `NO_GROUP`.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

NO_GROUP = -1
# The hash is FarmHash Fingerprint64, which TensorFlow promises to keep. The probability that two of ten million texts
# share a number is 1e-5.
_HASHES = 1 << 62
_NUMBER = r"\s*(\d{1,18}|-1)\s*"
_DECIMAL = re.compile(r"\s*[-+]?\d*\.\d+\s*|\s*[-+]?\d+\.\s*|\s*-\d+\s*")
_EXPECTED = "Expected groups as whole numbers from 0 on, or as texts"


def group_numbers(values: Iterable[Any], where: str) -> np.ndarray:
    """Returns the groups of a table or JSON file as numbers.

    Args:
        values: one value per record: a whole number, a text (str or bytes; a text that spells a number is that
            number), or None, "", -1, or NaN for no group.
        where: where the values come from, for error messages.

    Returns:
        int64 (n,), `NO_GROUP` for records without a group.

    Raises:
        ValueError: another value, such as 0.5 or -3; the message names it.
    """
    numbers, texts, places = [], [], []
    for place, value in enumerate(values):
        number = _number(value, where)
        if isinstance(number, bytes):
            texts.append(number)
            places.append(place)
            number = NO_GROUP
        numbers.append(number)
    found = np.array(numbers, np.int64)
    if texts:
        found[places] = tf.strings.to_hash_bucket_fast(texts, _HASHES).numpy()
    return found


def group_number(value: Any, where: str) -> int:
    """Returns the number of one group; see `group_numbers`."""
    return int(group_numbers([value], where)[0])


def groups_in_graph(values: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of `group_numbers` in the graph: int64, shaped like `values` (integers or texts)."""
    if values.dtype != tf.string:
        return tf.cast(values, tf.int64)  # The loss refuses numbers below `NO_GROUP`.
    spelled = tf.strings.regex_full_match(values, _NUMBER)
    number = tf.strings.to_number(tf.where(spelled, tf.strings.strip(values), str(NO_GROUP)), tf.int64)
    hashed = tf.strings.to_hash_bucket_fast(values, _HASHES)
    empty = tf.strings.length(tf.strings.strip(values)) == 0
    return tf.where(spelled | empty, number, hashed)


def _number(value: Any, where: str) -> int | bytes:
    """Returns a number, or the text to hash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NO_GROUP
    if isinstance(value, str):
        try:
            value = value.encode()
        except UnicodeEncodeError:  # The text holds half a surrogate pair.
            value = value.encode(errors="surrogatepass")
    if isinstance(value, bytes):
        text = value.decode(errors="replace")
        if not text.strip():
            return NO_GROUP
        if re.fullmatch(_NUMBER, text, re.ASCII):
            return int(text)
        if not _DECIMAL.fullmatch(text):
            return value
    elif isinstance(value, int | np.integer) and not isinstance(value, bool) and NO_GROUP <= value < 1 << 63:
        return int(value)
    shown = value.decode(errors="replace") if isinstance(value, bytes) else value
    raise ValueError(f"{_EXPECTED}, in {where}. Received: {str(shown)[:80]!r}.")
