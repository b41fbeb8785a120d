"""The rule for usable captions: valid UTF-8 that holds more than white space.

Training, evaluation, inspection, stored embeddings, and the training of a tokenizer all use this rule. A caption that
is not UTF-8 makes its whole record unusable, because other parts of the record may have been read wrongly, too.
"""

from collections.abc import Iterable

import tensorflow as tf

# The characters that Python's `str.isspace` accepts, and NUL, in RE2's syntax (whose own `\s` is ASCII only).
_BLANK = r"[\s\p{Z}\x00\x0b\x1c-\x1f\x{85}]*"


def is_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Finds, in the graph, which strings are valid UTF-8.

    Args:
        texts: strings of any shape.

    Returns:
        bool, shaped like `texts`. Invalid bytes do not raise an error.
    """
    # Transcoding drops invalid bytes.
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore") == texts


def usable_indices(captions: tf.Tensor) -> tf.Tensor:
    """Finds, in the graph, the indices of a record's usable captions.

    Args:
        captions: strings (captions,).

    Returns:
        int64 (usable,), in ascending order; empty if any caption is not UTF-8.
    """
    captions = tf.ensure_shape(captions, [None])
    has_text = ~tf.strings.regex_full_match(captions, _BLANK)
    return tf.where(has_text & tf.reduce_all(is_utf8(captions)))[:, 0]


def usable_captions(captions: tf.Tensor) -> tf.Tensor:
    """Returns, in the graph, a record's usable captions.

    Args:
        captions: strings (captions,).

    Returns:
        strings (usable,), at least one.

    Raises:
        tf.errors.InvalidArgumentError: no caption is usable.
    """
    usable = usable_indices(captions)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(usable) > 0, ["No caption, or one that is not UTF-8."])]):
        return tf.gather(captions, usable)


def is_blank(text: str) -> bool:
    """Says whether a text holds nothing but white space and NUL."""
    return not text.replace("\0", "").strip()


def encoding_fault(captions: Iterable[bytes]) -> str | None:
    """Says why the first caption that is not UTF-8 cannot be decoded. Returns None if all can be decoded."""
    for caption in captions:
        try:
            caption.decode()
        except UnicodeDecodeError as error:
            return str(error)
    return None
