"""Turns texts into token ids in the graph: lower-casing, SentencePiece, sticky end-of-sentence, padding.

Source: "Sigmoid Loss for Language Image Pre-Training", section 4 (sequence length, vocabularies); big_vision
`pp/ops_text.py` (sticky EOS) and `evaluators/proj/image_text/prompt_engineering.py` (canonicalization).
"""

import base64
import hashlib
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from siglip_tf.data.text.lower_case import LOWER_CASE, lower
from siglip_tf.data.text.sentencepiece_resource import sentencepiece_tokenizer

# ASCII punctuation, and the characters of Python's `\s`, in RE2's syntax (whose own `\s` is ASCII only).
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
_WHITE_SPACE = r"[\s\p{Z}\x0b\x1c-\x1f\x{85}]+"
# Hugging Face's `SiglipTokenizer` encodes a segment after this prefix and drops the prefix's pieces.
_PREFIX = "<unk>"
_SPACE = "\u2581"  # SentencePiece's character for a space.


def canonicalize(text: str, keep: str = "") -> str:
    """Returns the canonical form of a class name or prompt: `_` becomes a space, no punctuation, lower case.

    Args:
        text: class name or prompt template.
        keep: exactly this punctuation is kept, e.g. `"{}"` in templates or `","` in names.

    Returns:
        The canonical text, with single spaces.

    Source: big_vision `prompt_engineering.py`.
    """
    drop = str.maketrans("", "", string.punctuation)
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    return re.sub(r"\s+", " ", keep.join(part.translate(drop) for part in parts).lower()).strip()


def strip_punctuation(texts: tf.Tensor) -> tf.Tensor:
    """Removes ASCII punctuation, and collapses and trims white space, in the graph. Takes strings of any shape."""
    texts = tf.strings.regex_replace(texts, _PUNCTUATION, "")
    return tf.strings.strip(tf.strings.regex_replace(texts, _WHITE_SPACE, " "))


def canonicalize_in_graph(texts: tf.Tensor) -> tf.Tensor:
    """Does what `canonicalize` does (without `keep`) in the graph, for UTF-8 strings of any shape."""
    texts = tf.strings.regex_replace(texts, "_", " ")
    return strip_punctuation(lower(texts, "unicode"))


class Tokenizer(tf.Module):
    """SentencePiece ids of fixed length, in the graph, with "sticky" end-of-sentence.

    A text of fewer than `length` pieces becomes its pieces, one EOS, and padding. A longer text becomes its first
    `length - 1` pieces and EOS. The class is a `tf.Module`, so that a SavedModel that holds it includes the vocabulary.

    Args:
        model_proto: a serialized SentencePiece model (the bytes of a `.model` file).
        length: number of tokens per text.
        lower_case: True or "unicode" lower-cases every script, as Python and Hugging Face's `SiglipTokenizer` do.
            "simple" lower-cases each character separately, as `Siglip2Tokenizer` does; only a sigma at the end of a
            word differs. "ascii" changes A to Z only, as `tf.strings.lower` in big_vision's training did. False or
            "none" keeps the case.
        eos_id: id appended to every text; 1 in every SigLIP vocabulary.
        pad_id: id after the end; 1 for SigLIP (the same as EOS), 0 for SigLIP 2.
        punctuation: "keep", as in training, or "strip", which drops ASCII punctuation as Hugging Face's
            `SiglipTokenizer` does for every text.
        special_tokens: pieces of the vocabulary, such as "</s>" or "<eos>", that become their id if a text spells
            them out, as in Hugging Face's tokenizers. With punctuation "strip", the white space around them is dropped.
            By default there are none.

    Raises:
        ValueError: `model_proto` is not a SentencePiece model, an id is outside its vocabulary, or an option is
            unknown.

    Example:
        tokenizer = Tokenizer.from_file("tokenizer.model", length=64)
        ids = tokenizer(tf.constant(["A photo of a cat"]))  # int32 (1, 64)
    """

    def __init__(
        self,
        model_proto: bytes,
        length: int,
        *,
        lower_case: bool | str = True,
        eos_id: int = 1,
        pad_id: int = 1,
        punctuation: str = "keep",
        special_tokens: Sequence[str] = (),
    ):
        super().__init__(name="tokenizer")
        if isinstance(lower_case, bool):
            lower_case = "unicode" if lower_case else "none"
        if lower_case not in LOWER_CASE:
            raise ValueError(f"lower_case must be True, False or one of {LOWER_CASE}. Received: {lower_case!r}")
        if punctuation not in ("keep", "strip"):
            raise ValueError(f'punctuation must be "keep" or "strip". Received: {punctuation!r}')
        if length < 1:
            raise ValueError(f"length must be at least 1 token. Received: {length}")
        if not isinstance(model_proto, bytes) or not model_proto:
            raise ValueError(
                "model_proto must be the bytes of a SentencePiece .model file. "
                f"Received: {type(model_proto).__name__} of length {len(model_proto)}"
            )
        try:
            self._pieces = sentencepiece_tokenizer(model_proto)
            vocab_size = int(self._pieces.vocab_size())
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"model_proto ({len(model_proto)} bytes) is not a SentencePiece model: {error}") from error
        for name, value in (("eos_id", eos_id), ("pad_id", pad_id)):
            if not 0 <= value < vocab_size:
                raise ValueError(f"{name} must be an id of the vocabulary of {vocab_size} pieces. Received: {value}")
        self.model_proto = model_proto
        self.vocab_size = vocab_size
        self.length = length
        self.lower_case = lower_case
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.punctuation = punctuation
        self.special_tokens = tuple(special_tokens)
        self._special_ids = [int(self._pieces.string_to_id(token)) for token in self.special_tokens]
        # Whether SentencePiece itself adds a space before a text.
        self._begins_words = (
            self._pieces.id_to_string(self._pieces.tokenize("a")[0]).numpy().decode().startswith(_SPACE)
        )
        for token, number in zip(self.special_tokens, self._special_ids, strict=True):
            if self._pieces.id_to_string(number).numpy().decode() != token:
                raise ValueError(f"special_tokens must be pieces of the vocabulary. Received: {token!r}")

    @classmethod
    def from_file(cls, path: str | Path, length: int, **options: Any) -> "Tokenizer":
        """Makes a tokenizer from a `.model` file at any path that TensorFlow reads. Options are the constructor's."""
        with tf.io.gfile.GFile(str(path), "rb") as file:
            return cls(file.read(), length, **options)

    def normalize(self, texts: tf.Tensor) -> tf.Tensor:
        """Lower-cases and strips texts of any shape by this tokenizer's options, as SentencePiece receives them."""
        texts = lower(texts, self.lower_case)
        return strip_punctuation(texts) if self.punctuation == "strip" else texts

    @tf.autograph.experimental.do_not_convert
    def __call__(self, texts: Any) -> tf.Tensor:
        """Turns texts into token ids.

        Args:
            texts: UTF-8 strings, scalar or (batch, ...), of known rank.

        Returns:
            int32 (..., length).
        """
        texts = tf.convert_to_tensor(texts, tf.string)
        ids = self._ids(tf.reshape(texts, [-1]))
        kept = self.length - 1
        counts = tf.minimum(tf.cast(ids.row_lengths(), tf.int32), kept)[:, None]
        ids = ids.to_tensor(self.pad_id, shape=(None, self.length))  # This truncates longer texts.
        position = tf.range(self.length)[None, :]
        if self.special_tokens and self.punctuation == "strip":
            # `SiglipTokenizer` adds no EOS to a text that ends with one.
            last = tf.reduce_sum(tf.where(position == counts - 1, ids, 0), 1, keepdims=True)
            counts -= tf.cast((counts > 0) & (last == self.eos_id), tf.int32)
        ids = tf.where(position < counts, ids, tf.where(position == counts, self.eos_id, self.pad_id))
        ids = tf.reshape(ids, tf.concat([tf.shape(texts), [self.length]], 0))
        return tf.ensure_shape(ids, texts.shape.concatenate([self.length]))

    @tf.autograph.experimental.do_not_convert
    def token_counts(self, texts: Any) -> tf.Tensor:
        """Counts the tokens of each text, EOS included, before truncation. A text with more than `length` is truncated.

        Args:
            texts: UTF-8 strings (batch,).

        Returns:
            int32 (batch,).
        """
        texts = tf.convert_to_tensor(texts, tf.string)
        return tf.cast(self._ids(texts).row_lengths(), tf.int32) + 1

    def _ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of strings (batch,) without EOS: int32 (batch, pieces), ragged."""
        if not self.special_tokens:
            return self._pieces.tokenize(self.normalize(texts))
        strips = self.punctuation == "strip"
        if strips:  # `SiglipTokenizer` does the same.
            texts = tf.strings.regex_replace(texts, _SPACE, " ")
        around = r"[\s\p{Z}\x0b\x1c-\x1f\x{85}]*" if strips else ""
        either = "|".join(re.escape(token) for token in sorted(self.special_tokens, key=len, reverse=True))
        # A byte that never occurs in UTF-8 separates special tokens from the text around them.
        marked = tf.strings.regex_replace(texts, f"{around}({either}){around}", b"\xff\\1\xff")
        segments = tf.strings.split(marked, b"\xff")
        is_special = segments.flat_values[:, None] == list(self.special_tokens)
        plain = tf.where(tf.reduce_any(is_special, 1), "", self.normalize(segments.flat_values))
        ids = self._segment_ids(plain, segments) if strips else self._pieces.tokenize(plain)
        named = tf.ragged.boolean_mask(tf.zeros_like(is_special, tf.int32) + self._special_ids, is_special)
        return segments.with_flat_values(tf.concat([ids, named], 1)).merge_dims(1, 2)

    def _segment_ids(self, plain: tf.Tensor, segments: tf.RaggedTensor) -> tf.RaggedTensor:
        """Tokenizes segments like `SiglipTokenizer`: a text begins a word, and text after a special token does not."""
        first = tf.ragged.range(segments.row_lengths()).flat_values == 0
        begun = plain
        if not self._begins_words:
            alone = tf.repeat(segments.row_lengths() == 1, segments.row_lengths())
            begun = tf.where(first & (alone | (plain != "")), tf.strings.join([_SPACE, plain]), plain)
        inside = self._pieces.tokenize(tf.where(first | (plain == ""), begun, tf.strings.join([_PREFIX, plain])))
        lengths = tf.where(first | (plain == ""), 0, tf.size(self._pieces.tokenize(_PREFIX)))
        position = tf.ragged.range(inside.row_lengths())
        return tf.ragged.boolean_mask(inside, tf.cast(position, tf.int32) >= tf.cast(lengths, tf.int32)[:, None])

    def decode(self, ids: Any) -> tf.Tensor:
        """Turns ids, int32 (batch, length), up to their first EOS, into strings (batch,) for people to read."""
        ids = tf.convert_to_tensor(ids, tf.int32)
        before_end = tf.cumsum(tf.cast(ids == self.eos_id, tf.int32), axis=1) == 0
        return self._pieces.detokenize(tf.ragged.boolean_mask(ids, before_end & (ids != self.pad_id)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary's bytes."""
        return hashlib.sha256(self.model_proto).hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Returns the options without the vocabulary, as plain JSON, for `Tokenizer(proto, **config)`."""
        names = ("length", "lower_case", "eos_id", "pad_id", "punctuation")
        config = {name: getattr(self, name) for name in names}
        # Leave out an empty list, so that older versions can read the config, too.
        return config | ({"special_tokens": list(self.special_tokens)} if self.special_tokens else {})

    def to_config(self) -> dict[str, Any]:
        """Returns the options, and the vocabulary as base64, as plain JSON."""
        return {**self.get_config(), "model_proto": base64.b64encode(self.model_proto).decode("ascii")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tokenizer":
        """Makes a tokenizer from what `to_config` returned.

        Raises:
            ValueError: the config holds no vocabulary, or the vocabulary is not base64.
        """
        options = dict(config)
        proto = options.pop("model_proto", None)
        if proto is None:
            raise ValueError(
                "The tokenizer's config holds no `model_proto`: it lies in a file beside it. "
                "Use `Tokenizer.from_file(path, **config)`."
            )
        return cls(base64.b64decode(proto, validate=True), **options)
