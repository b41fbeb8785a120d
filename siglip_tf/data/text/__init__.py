"""Turns texts into token ids: the SentencePiece tokenizer and its training."""
