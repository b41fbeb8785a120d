"""A small SentencePiece vocabulary, trained once a session."""

import io

import pytest

CORPUS = (
    "a photo of a cat",
    "a photo of two dogs on the green grass",
    "hello, world! under_score and (brackets)",
    "ein foto eines hundes äöü straße",
    "οδος σισυφος",
    "写真 猫 犬",
    "кошка на столе",
    "قطة على الطاولة",
    "le café et la forêt",
    "i̇stanbul'da bir kedi",
)


@pytest.fixture(scope="session")
def vocabulary() -> bytes:
    """Bytes of a unigram model with pad 0, EOS 1, unknown 2, as the T5 vocabularies have them."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=model,
        vocab_size=140,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
