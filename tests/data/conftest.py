"""A small SentencePiece vocabulary, trained once a session."""

import pytest

from tests.vocabulary import trained

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
    return trained(CORPUS, 140)
