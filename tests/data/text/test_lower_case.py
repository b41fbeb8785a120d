"""Lower-casing against Python's own, and whole token ids against transformers' tokenizers."""

import io
import os
import subprocess
import sys

import pytest
import sentencepiece
import tensorflow as tf

from siglip_tf.data import Tokenizer
from siglip_tf.data.text.lower_case import lower
from siglip_tf.data.text.tokenizer import canonicalize, canonicalize_in_graph
from tests.data.conftest import CORPUS
from tests.vocabulary import trained

TEXTS = [
    "A red circle\0 and a BLUE star", "\0", "\0\0A", "A\0", "", "   ", "ΟΔΟΣ ΣΑΣ", "Σ", "ΑΣ\0Σ", "ΑΣ. ΑΣ' ΑΣ1", "İI ıi",  # noqa: RUF001  (these characters are meant)
    "ÄÖ\0Ü STRASSE", "Ǆ ﬁ Ⅷ Ⓐ Ａ", "КОШКА", "\U00010400",  # noqa: RUF001
]  # fmt: skip
LITERALS = [
    "ΑΣ</s>ΑΣ b", "a cat </s> dog", "a </s>", "</s>", "</s></s> cat", "<unk> dog", "a<unk>b c", "a <EOS> cat",
    "a <eos> cat", "a <pad> dog", "  spaced </s>  two", "x</s>.", "under_score, and!", "a ▁ cat", "</S> up",
    "写真</s>猫",
    "a cat <bos>", "a<mask>b", "a</s>a photo of a cat and more words that are cut somewhere here",
]  # fmt: skip


def test_equals_python_for_every_byte():
    ways = {
        "unicode": str.lower,
        "simple": lambda text: "".join(map(str.lower, text)),
        "ascii": lambda text: text.encode().lower().decode(),
        "none": str,
    }
    for how, python in ways.items():
        expected = [python(text) for text in TEXTS]
        assert [text.decode() for text in lower(tf.constant(TEXTS), how).numpy()] == expected, how
        nested = tf.function(lower)(tf.constant([[TEXTS[0]], [TEXTS[6]]]), how)
        assert nested.shape == (2, 1) and nested.numpy()[1, 0].decode() == python(TEXTS[6])
    expected = [canonicalize(text.replace("\0", "")) for text in TEXTS]
    found = canonicalize_in_graph(tf.constant([text.replace("\0", "") for text in TEXTS])).numpy()
    assert [text.decode() for text in found] == expected


def test_nul_does_not_end_a_text(vocabulary):
    words = "a photo\0 of a cat"
    expected = [*sentencepiece.SentencePieceProcessor(model_proto=vocabulary).encode(words), 1]
    for how in ("unicode", "simple", "ascii", "none"):
        ids = Tokenizer(vocabulary, len(expected), lower_case=how)([words])
        assert ids.numpy().tolist() == [expected], how


def test_special_tokens_of_the_vocabulary(vocabulary):
    plain = Tokenizer(vocabulary, 12)
    special = Tokenizer(vocabulary, 12, special_tokens=["</s>"])
    assert 1 not in plain(["</s> a cat"]).numpy()[0, :6]
    assert special(["</s> a cat"]).numpy()[0, 0] == 1
    assert special(["a cat"]).numpy().tolist() == plain(["a cat"]).numpy().tolist()
    assert special.get_config()["special_tokens"] == ["</s>"] and "special_tokens" not in plain.get_config()
    assert Tokenizer.from_config(special.to_config()).special_tokens == ("</s>",)
    with pytest.raises(ValueError, match="pieces of the vocabulary. Received: '<nothing>'"):
        Tokenizer(vocabulary, 12, special_tokens=["<nothing>"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This sequence already has </s>")
def test_ids_equal_siglip_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    proto = trained([*CORPUS, "eos pad unk s red circle and blue star"], 160)
    (tmp_path / "spiece.model").write_bytes(proto)
    theirs = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=16)
    ours = Tokenizer(proto, 16, punctuation="strip", special_tokens=theirs.all_special_tokens)
    for text in [*TEXTS, *LITERALS]:
        expected = theirs([text], padding="max_length", truncation=True).input_ids
        assert ours([text]).numpy().tolist() == expected, text


@pytest.mark.slow
def test_ids_equal_siglip2_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CORPUS, "οδος red circle"] * 30),
        model_writer=model,
        vocab_size=500,
        model_type="bpe",
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        # As Gemma's vocabulary.
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=["<mask>"],
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    pieces, _, merges = SentencePieceExtractor(str(tmp_path / "tokenizer.model")).extract(None)
    theirs = transformers.Siglip2Tokenizer(vocab=pieces, merges=merges)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    ours = Tokenizer(model.getvalue(), 64, pad_id=0, lower_case="simple", special_tokens=special)
    for text in [*TEXTS, *LITERALS]:
        expected = theirs(text, add_special_tokens=False).input_ids
        assert ours([text]).numpy()[0].tolist() == [*expected, 1] + [0] * (63 - len(expected)), text


@pytest.mark.slow
def test_no_locale_changes_the_ids():
    program = (
        "from siglip_tf.data.text.lower_case import lower\n"
        "print(ascii(lower('\u0130I TITLE', 'unicode').numpy().decode()))"
    )
    turkish = {**os.environ, "LC_ALL": "tr_TR.UTF-8"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=turkish)
    assert done.stdout.strip() == ascii("\u0130I TITLE".lower())
