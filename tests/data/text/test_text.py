"""Token ids against the SentencePiece library, canonicalisation against Python's own string methods."""

import json

import pytest
import sentencepiece
import tensorflow as tf

from siglip_tf.data import Tokenizer, canonicalize
from siglip_tf.data.text.tokenizer import canonicalize_in_graph, strip_punctuation

TEXTS = [
    "A photo of a CAT",
    "a",
    "",
    "   spaces \t and\u00a0more  ",
    "Hello, World! under_score",
    "Ein Foto ÄÖÜ STRASSE",
    "ΟΔΟΣ ΣΊΣΥΦΟΣ",
    "Кошка НА столе",  # noqa: RUF001  (Cyrillic is meant)
    "写真　猫",
    "قطة على الطاولة",
    "İstanbul",
    "emoji \U0001f600 unseen",
    "word " * 40,
]


def expected_ids(proto: bytes, text: str, length: int, pad_id: int) -> list[int]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    ids = processor.encode(text)
    ids = [*ids[: length - 1], 1]
    return ids + [pad_id] * (length - len(ids))


@pytest.mark.parametrize("length", [1, 2, 7, 64])
@pytest.mark.parametrize("pad_id", [0, 1])
def test_ids_equal_the_sentencepiece_library(vocabulary, length, pad_id):
    tokenizer = Tokenizer(vocabulary, length, pad_id=pad_id)
    ids = tokenizer(TEXTS)
    assert ids.dtype == tf.int32
    assert ids.numpy().tolist() == [expected_ids(vocabulary, text.lower(), length, pad_id) for text in TEXTS]


@pytest.mark.parametrize(
    ("lower_case", "python"),
    [
        ("none", str),
        (False, str),
        ("unicode", str.lower),
        ("ascii", lambda text: text.encode().lower().decode()),  # bytes.lower touches A to Z only
    ],
)
def test_lower_case(vocabulary, lower_case, python):
    tokenizer = Tokenizer(vocabulary, 16, lower_case=lower_case)
    assert [text.decode() for text in tokenizer.normalize(tf.constant(TEXTS)).numpy()] == [python(t) for t in TEXTS]


def test_truncated_texts_are_those_that_count_more_than_length(vocabulary):
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary)
    counts = Tokenizer(vocabulary, 7).token_counts(TEXTS)
    assert counts.numpy().tolist() == [len(processor.encode(text.lower())) + 1 for text in TEXTS]


def test_any_rank_in_a_graph_with_static_shapes(vocabulary):
    tokenizer = Tokenizer(vocabulary, 5)
    flat = tokenizer(["a", "b", "a cat", "dog"])
    nested = tf.function(tokenizer)(tf.constant([["a", "b"], ["a cat", "dog"]]))
    assert nested.shape == (2, 2, 5)
    assert tf.reshape(nested, [4, 5]).numpy().tolist() == flat.numpy().tolist()
    assert tokenizer(tf.constant("a cat")).numpy().tolist() == flat[2].numpy().tolist()
    dataset = tf.data.Dataset.from_tensor_slices(["a", "b", "c"]).batch(2).map(tokenizer)
    assert dataset.element_spec.shape == (None, 5)


def test_decode_reads_up_to_the_end(vocabulary):
    tokenizer = Tokenizer(vocabulary, 32, pad_id=0)
    assert tokenizer.decode(tokenizer(["A photo of a cat", ""])).numpy().tolist() == [b"a photo of a cat", b""]


def test_saved_model_keeps_the_vocabulary(vocabulary, tmp_path):
    module = tf.Module()
    module.tokenizer = Tokenizer(vocabulary, 9)
    module.serve = tf.function(module.tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.serve(tf.constant(TEXTS)).numpy().tolist() == module.tokenizer(TEXTS).numpy().tolist()


def test_config_round_trip(vocabulary, tmp_path):
    tokenizer = Tokenizer(vocabulary, 9, lower_case="ascii", pad_id=0, punctuation="strip")
    again = Tokenizer.from_config(json.loads(json.dumps(tokenizer.to_config())))
    assert again.get_config() == tokenizer.get_config()
    assert again.fingerprint == tokenizer.fingerprint
    (tmp_path / "tokenizer.model").write_bytes(vocabulary)
    beside = Tokenizer.from_file(tmp_path / "tokenizer.model", **tokenizer.get_config())
    assert beside(TEXTS).numpy().tolist() == again(TEXTS).numpy().tolist() == tokenizer(TEXTS).numpy().tolist()


def test_errors_name_the_value(vocabulary):
    for proto in (b"", b"not a model", vocabulary[:100], "text"):
        with pytest.raises(ValueError, match="SentencePiece"):
            Tokenizer(proto, 8)
    with pytest.raises(ValueError, match="length.*Received: 0"):
        Tokenizer(vocabulary, 0)
    with pytest.raises(ValueError, match="pad_id.*Received: 99999"):
        Tokenizer(vocabulary, 8, pad_id=99999)
    with pytest.raises(ValueError, match="lower_case.*'greek'"):
        Tokenizer(vocabulary, 8, lower_case="greek")
    with pytest.raises(ValueError, match="punctuation"):
        Tokenizer(vocabulary, 8, punctuation="all")
    with pytest.raises(ValueError, match="from_file"):
        Tokenizer.from_config({"length": 8})


def test_canonicalize():
    assert canonicalize("  A_photo of: a   {} (Cat)!", keep="{}") == "a photo of a {} cat"
    assert canonicalize("Crane, bird", keep=",") == "crane, bird"
    assert canonicalize("{}'s") == "s"
    python = [canonicalize(text) for text in TEXTS]
    assert [text.decode() for text in canonicalize_in_graph(tf.constant(TEXTS)).numpy()] == python


def test_strip_punctuation_equals_python():
    import re
    import string

    texts = [chr(code) + "x" + chr(code) for code in [*range(1, 0x300), 0x2009, 0x2028, 0x2029, 0x202F, 0x3000, 0x200B]]
    drop = str.maketrans("", "", string.punctuation)
    python = [re.sub(r"\s+", " ", text.translate(drop)).strip() for text in texts]
    assert [text.decode() for text in strip_punctuation(tf.constant(texts)).numpy()] == python


def test_seeding_leaves_the_vocabulary_alone(vocabulary, tmp_path):
    """tensorflow-text's own resource dies with the kernel caches that `set_seed` clears, in a SavedModel too."""
    tokenizer = Tokenizer(vocabulary, 7)
    module = tf.Module()
    module.tokenizer = tokenizer
    module.ids = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
    before = tokenizer(TEXTS)
    tf.saved_model.save(module, tmp_path / "m")
    loaded = tf.saved_model.load(tmp_path / "m")
    tf.random.set_seed(1)
    tf.debugging.assert_equal(tokenizer(TEXTS), before)
    tf.debugging.assert_equal(loaded.ids(TEXTS), before)
