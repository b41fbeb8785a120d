"""Small SentencePiece models, trained by the library itself."""

import io
from collections.abc import Sequence

import sentencepiece


def trained(texts: Sequence[str], vocab_size: int) -> bytes:
    """Bytes of a unigram model with pad 0, EOS 1, unknown 2, as the T5 vocabularies have them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts] * 20),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
