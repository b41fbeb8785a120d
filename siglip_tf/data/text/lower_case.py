"""Lower-casing in the graph, which gives the same result in every locale and for every byte.

Source: Python's `str.lower` and `bytes.lower`; the `Lowercase` normalizer of Hugging Face's `tokenizers`.
"""

import tensorflow as tf

LOWER_CASE = ("unicode", "simple", "ascii", "none")


def lower(texts: tf.Tensor, how: str) -> tf.Tensor:
    """Lower-cases texts.

    Args:
        texts: UTF-8 strings of any shape.
        how: "unicode" lower-cases every script as Python's `str.lower` does. "simple" lower-cases each character
            separately, so that a sigma at the end of a word gets the same form as inside words. "ascii" changes A to Z
            only. "none" changes nothing.

    Returns:
        strings, shaped like `texts`.
    """
    if how == "none":
        return texts
    texts = tf.strings.lower(texts)
    if how == "ascii":
        return texts
    # TensorFlow's conversion depends on the locale of the process: in Turkish, I and the dotted I are two letters.
    texts = tf.strings.regex_replace(texts, "\u0130", "i\u0307")
    if how == "simple":
        texts = tf.strings.regex_replace(texts, "\u03a3", "\u03c3")
    # The conversion also stops at NUL, so the parts between NULs are converted one by one.
    parts = tf.strings.split(tf.reshape(texts, [-1]), "\0")
    lowered = tf.strings.join([tf.strings.lower(parts.flat_values, encoding="utf-8"), "\0"])
    whole = tf.strings.reduce_join(parts.with_flat_values(lowered), axis=-1)
    lengths = tf.strings.length(whole)
    whole = tf.strings.substr(whole, tf.zeros_like(lengths), lengths - 1)
    return tf.ensure_shape(tf.reshape(whole, tf.shape(texts)), texts.shape)
