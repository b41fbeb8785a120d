"""What a usable caption is: valid UTF-8 that holds more than white space.

Training, evaluation, inspection, stored embeddings and the training of a tokenizer all use this one rule. One caption
that is not UTF-8 spoils its record, because then the reader cannot tell what else was read wrongly.
"""

from collections.abc import Iterable

import tensorflow as tf

# What Python's `str.isspace` accepts, and NUL, in RE2's syntax (whose own `\s` is ASCII only).
_BLANK = r"[\s\p{Z}\x00\x0b\x1c-\x1f\x{85}]*"


def is_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Whether each string is valid UTF-8, in the graph.

    Args:
        texts: strings of any shape.

    Returns:
        bool, like `texts`. Invalid bytes are never an error.
    """
    # Transcoding drops what is not valid.
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore") == texts


def usable_indices(captions: tf.Tensor) -> tf.Tensor:
    """The indices of a record's usable captions, in the graph.

    Args:
        captions: strings (captions,).

    Returns:
        int64 (usable,), rising; empty if any caption is not UTF-8.
    """
    captions = tf.ensure_shape(captions, [None])
    has_text = ~tf.strings.regex_full_match(captions, _BLANK)
    return tf.where(has_text & tf.reduce_all(is_utf8(captions)))[:, 0]


def usable_captions(captions: tf.Tensor) -> tf.Tensor:
    """A record's usable captions, in the graph.

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
    """Whether a text holds nothing but white space and NUL."""
    return not text.replace("\0", "").strip()


def encoding_fault(captions: Iterable[bytes]) -> str | None:
    """Why the first caption that is not UTF-8 cannot be decoded, or None if all can."""
    for caption in captions:
        try:
            caption.decode()
        except UnicodeDecodeError as error:
            return str(error)
    return None
