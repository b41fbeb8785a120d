"""Tokenisers that travel: transformers and KerasHub give the ids that this project gives for one checkpoint."""

import dataclasses

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from siglip_tf import checkpoints
from siglip_tf.checkpoints.tokenizer_json import to_json
from siglip_tf.data import Preprocessing
from tests.checkpoints.test_tokenizer_json import GEMMA
from tests.checkpoints.test_tokenizer_json import trained as trained_as_gemma
from tests.vocabulary import trained

TEXTS = [
    "A photo of a cat.",
    "the quick brown fox, jumped over the lazy dog!",
    "ÀÉÎ grüße Straße",
    "猫の写真",
    "  spaces\tand   tabs ",
    "",
    "a" * 60,
    "ΟΔΟΣ, ΣΟΦΟΣ Σ a",
    # Special tokens that a text spells out.
    "</s>",
    "a </s>  b<unk>c",
    "ends with </s> ",
    "A <eos> <bos>b <pad>",
    "<EOS> ▁a",
]


@pytest.fixture(scope="module")
def vocabulary() -> bytes:
    return trained([text.lower() for text in TEXTS if text], 90)


def len_of(model: bytes) -> int:
    return SentencePieceProcessor(model_proto=model).get_piece_size()


def checkpoint_with(tiny, vocabulary, vocab_size=90, **changes):
    text = {"length": 7, "lower_case": "unicode", "eos_id": 1, "pad_id": 1, "punctuation": "strip", **changes}
    preprocessing = {"image": {"size": 50, "method": "bicubic_antialias"}, "text": text}
    return dataclasses.replace(tiny(vocab_size=vocab_size), preprocessing=preprocessing, tokenizer=vocabulary)


def ids_here(checkpoint):
    return Preprocessing.from_config(checkpoint.preprocessing, checkpoint.tokenizer).text(TEXTS).numpy()


@pytest.mark.slow
def test_transformers_loads_the_whole_processor(tmp_path, tiny, vocabulary):
    from transformers import AutoProcessor

    checkpoints.write(tmp_path / "model", checkpoint_with(tiny, vocabulary), format="hugging_face")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    images = [np.full((80, 60, 3), 255, np.uint8)] * 2
    batch = processor(text=TEXTS[:2], images=images, padding="max_length", max_length=7, truncation=True)
    np.testing.assert_array_equal(batch["input_ids"], ids_here(checkpoints.read(tmp_path / "model"))[:2])
    np.testing.assert_allclose(batch["pixel_values"], np.ones((2, 3, 50, 50)), atol=1e-6)


CHANGES = [
    {},
    {"pad_id": 0},
    {"lower_case": "none"},
    {"lower_case": "ascii"},
    {"punctuation": "keep"},
    {"punctuation": "keep", "lower_case": "ascii", "pad_id": 0},
    {"punctuation": "keep", "lower_case": "none"},
]


# A text that ends with EOS.
@pytest.mark.filterwarnings("ignore:This sequence already has")
@pytest.mark.slow
def test_transformers(tmp_path, tiny, vocabulary):
    """Written here, read by transformers and by us again: the ids of both are one, in Python and served."""
    from transformers import AutoTokenizer

    gemma = trained_as_gemma(**GEMMA)
    changes = [*CHANGES, {"punctuation": "keep", "lower_case": "simple"}]
    for i, (model, change) in enumerate([*((vocabulary, c) for c in changes), *((gemma, c) for c in changes[4:])]):
        folder = tmp_path / str(i)
        checkpoint = checkpoint_with(tiny, model, vocab_size=len_of(model), **change)
        notes = checkpoints.write(folder, checkpoint, format="hugging_face")
        found = checkpoints.read(folder)
        text = dict(found.preprocessing["text"])
        special = text.pop("special_tokens")
        assert found.tokenizer == model
        assert text == checkpoint.preprocessing["text"] or change == {"lower_case": "ascii"}
        assert {"<unk>", "<eos>" if model is gemma else "</s>"} <= set(special)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        kind = (
            "Siglip2Tokenizer" if model is gemma and change.get("lower_case") == "simple" else type(tokenizer).__name__
        )
        assert type(tokenizer).__name__ == kind
        theirs = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=7)["input_ids"]
        np.testing.assert_array_equal(ids_here(found), theirs)
        # What transformers cannot do as this checkpoint does is said.
        assert sum("as a special token; here that is only text" in note for note in notes) == 1
        assert len(notes) == 1 + (change == {"lower_case": "ascii"})
        assert len(checkpoints.write(tmp_path / f"again{i}", found, format="hugging_face")) == 0
        again = checkpoints.read(tmp_path / f"again{i}")
        assert again.preprocessing == found.preprocessing
        checkpoints.write(tmp_path / f"native{i}", found)
        assert checkpoints.read(tmp_path / f"native{i}").preprocessing == found.preprocessing
        for name in ("tokenizer.model", "spiece.model"):  # a folder that holds tokenizer.json alone
            (folder / name).unlink(missing_ok=True)
        if (folder / "tokenizer.json").exists():
            np.testing.assert_array_equal(ids_here(checkpoints.read(folder)), theirs)


# A text that ends with EOS.
@pytest.mark.filterwarnings("ignore:This sequence already has")
@pytest.mark.slow
def test_folders_that_transformers_wrote(tmp_path, tiny, vocabulary):
    """Both tokenizer classes saved by the library itself, with options that people set."""
    from transformers import AutoTokenizer, SiglipTokenizer
    from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

    (tmp_path / "spiece.model").write_bytes(vocabulary)
    gemma = trained_as_gemma(**{key: value for key, value in GEMMA.items() if key != "user_defined_symbols"})
    content = to_json(gemma, "simple", 1)["model"]
    merges = [tuple(pair) for pair in content["merges"]]
    folders = {}
    for name, options in {"plain": {}, "pad": {"pad_token": "<pad>"}, "case": {"do_lower_case": False}}.items():
        folders[name] = SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=7, **options)
    folders["siglip2"] = Siglip2Tokenizer(vocab=content["vocab"], merges=merges, padding_side="right")
    for name, tokenizer in folders.items():
        model = gemma if name == "siglip2" else vocabulary
        checkpoints.write(
            tmp_path / name, checkpoint_with(tiny, model, vocab_size=len_of(model)), format="hugging_face"
        )
        for file in ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (tmp_path / name / file).unlink(missing_ok=True)
        tokenizer.save_pretrained(tmp_path / name)
        found = checkpoints.read(tmp_path / name)
        theirs = AutoTokenizer.from_pretrained(tmp_path / name)(
            TEXTS, padding="max_length", truncation=True, max_length=7 - (name == "siglip2")
        )["input_ids"]
        ours = ids_here(found)
        if name == "siglip2":  # that class adds no EOS, of which the note speaks
            assert any("add_eos_token False" in note for note in found.notes)
            counts = Preprocessing.from_config(found.preprocessing, found.tokenizer).text.token_counts(TEXTS).numpy()
            for row, wanted, count in zip(ours, theirs, np.minimum(counts - 1, 6), strict=True):
                assert list(row[:count]) == wanted[:count] and row[count] == 1 and not any(wanted[count:])
            continue
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


# KerasHub leaves the vocabulary's file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("punctuation", ["strip", "keep"])
def test_keras_hub(tmp_path, tiny, vocabulary, punctuation):
    import keras_hub

    lower_case = "ascii" if punctuation == "strip" else "none"
    checkpoint = checkpoint_with(tiny, vocabulary, lower_case=lower_case, punctuation=punctuation)
    checkpoints.write(tmp_path / "model", checkpoint, format="keras_hub")
    found = checkpoints.read(tmp_path / "model")
    assert found.preprocessing["text"] == checkpoint.preprocessing["text"]
    preprocessor = keras_hub.models.SigLIPPreprocessor.from_preset(str(tmp_path / "model"))
    images = np.zeros((len(TEXTS), 50, 50, 3))
    theirs = preprocessor({"prompts": TEXTS, "images": images})["token_ids"]
    np.testing.assert_array_equal(ids_here(found), theirs)


def test_a_vocabulary_inside_the_config_moves_to_its_own_file(tmp_path, tiny, vocabulary):
    checkpoint = checkpoint_with(tiny, vocabulary)
    config = Preprocessing.from_config(checkpoint.preprocessing, vocabulary).to_config()
    checkpoints.write(tmp_path / "model", dataclasses.replace(checkpoint, preprocessing=config, tokenizer=None))
    found = checkpoints.read(tmp_path / "model")
    assert found.tokenizer == vocabulary
    assert "model_proto" not in found.preprocessing["text"]
    np.testing.assert_array_equal(ids_here(found), ids_here(checkpoint))
