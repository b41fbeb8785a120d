"""tokenizer.json both ways: the tokenizers library gives the ids that SentencePiece gives."""

import io
import json
import random

import pytest
import sentencepiece
import tokenizers

from siglip_tf.checkpoints.tokenizer_json import (
    UnlikeSentencePieceError,
    from_json,
    is_gemma_like,
    lowered,
    to_json,
)

TEXTS = [
    "a photo of a cat",
    "the quick brown fox jumped over the lazy dog",
    "猫の写真",
    "grüße straße àéî",
    "a  b\n\nc",
]
ALPHABET = "abcdefghijklmnopqrstuvwxyz ABC  .,\n\t猫の写真üßé½ﬁ🐈①Σ"
GEMMA = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "user_defined_symbols": ["<mask>", "\n\n"],
    "vocab_size": 400,
}
KINDS = {
    "gemma": GEMMA,
    "bpe": {"model_type": "bpe", "vocab_size": 120},
    "unigram": {},
    "unigram, identity": {"normalization_rule_name": "identity"},
    "unigram, no prefix": {"add_dummy_prefix": False},
    "unigram, spaces kept": {"remove_extra_whitespaces": False},
}


def trained(**options) -> bytes:
    model = io.BytesIO()
    special = {f"{name}_{part}": value for i, name in enumerate(("pad", "eos", "bos", "unk"))
               for part, value in (("id", i), ("piece", f"<{name}>"))}  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **special,
        **({"vocab_size": 90} | options),
    )
    return model.getvalue()


def random_texts(count: int) -> list[str]:
    chosen = random.Random(0)
    return ["", " ", *("".join(chosen.choices(ALPHABET, k=chosen.randint(0, 40))) for _ in range(count))]


def test_ids_equal_both_ways():
    texts = random_texts(200)
    for kind, options in KINDS.items():
        model = trained(**options)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        assert is_gemma_like(model) == (kind == "gemma")
        for lower_case in ("unicode", "simple", "ascii", "none"):
            content = json.loads(json.dumps(to_json(model, lower_case, eos_id=1)))
            theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
            wanted = [[*pieces.encode(lowered(text, lower_case)), 1] for text in texts]
            assert [theirs.encode(text).ids for text in texts] == wanted, (kind, lower_case)
            again, found = from_json(content)
            assert found == lower_case
            read = sentencepiece.SentencePieceProcessor(model_proto=again)
            assert [read.encode(text) for text in texts] == [pieces.encode(text) for text in texts], kind


@pytest.mark.slow
def test_what_transformers_saves_is_read_exactly(tmp_path):
    from transformers import Siglip2Tokenizer

    model = trained(**GEMMA)
    (tmp_path / "tokenizer.model").write_bytes(model)
    Siglip2Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "fast")
    assert not (tmp_path / "fast/tokenizer.model").exists()
    again, lower_case = from_json(json.loads((tmp_path / "fast/tokenizer.json").read_text()))
    assert lower_case == "simple"
    ours, theirs = (sentencepiece.SentencePieceProcessor(model_proto=m) for m in (again, model))
    assert [ours.encode(text) for text in random_texts(2000)] == [theirs.encode(t) for t in random_texts(2000)]


def test_what_sentencepiece_cannot_do_is_named():
    content = to_json(trained(**GEMMA), "unicode", eos_id=1)

    def changed(change):
        copy = json.loads(json.dumps(content))
        change(copy)
        return copy

    def drop_merge(copy):
        copy["model"]["merges"].pop(3)

    for change, says in (
        (lambda c: c.update(normalizer={"type": "NFKC"}), "normalizer has a step NFKC"),
        (lambda c: c.update(normalizer=None), "spaces"),
        (lambda c: c.update(pre_tokenizer={"type": "ByteLevel"}), "pre_tokenizer has a step ByteLevel"),
        (lambda c: c["model"].update(type="WordPiece"), "WordPiece"),
        (lambda c: c["model"].update(dropout=0.1), "dropout"),
        (lambda c: c["model"].update(ignore_merges=True), "whole words"),
        (lambda c: c["model"]["vocab"].update(more=9000), "count from 0"),
        (lambda c: c["added_tokens"][-1].update(lstrip=True, special=False), "spaces beside it"),
        (lambda c: c.pop("model"), "lacks"),
        (lambda c: c["model"].update(merges=7), "lacks or mistypes"),
        (drop_merge, "does not merge"),
    ):
        with pytest.raises(UnlikeSentencePieceError, match=says):
            from_json(changed(change))
    for nothing in (None, [], 3, "x", {}):
        with pytest.raises(UnlikeSentencePieceError):
            from_json(nothing)
