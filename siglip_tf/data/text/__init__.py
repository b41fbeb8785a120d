"""Texts as token ids: the SentencePiece tokenizer and the training of one."""
