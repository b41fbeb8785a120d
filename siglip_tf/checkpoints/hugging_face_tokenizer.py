"""The SentencePiece model in a Hugging Face folder, and the tokenizer files round it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siglip_tf.checkpoints.files import read_json, write_json

_MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.model")
CONFIG, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
FILES = (_MODELS[0], CONFIG, SPECIAL)


def read_tokenizer(folder: Path) -> tuple[bytes | None, dict[str, Any] | None]:
    """The SentencePiece model and the content of `tokenizer_config.json`, None where there is none."""
    model = next((folder / name for name in _MODELS if (folder / name).is_file()), None)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    return model and model.read_bytes(), config


def write_tokenizer(folder: Path, model_proto: bytes, config: Mapping[str, Any] | None, length: int) -> tuple[str, ...]:
    """Writes the files of a `SiglipTokenizer`.

    Args:
        folder: where to.
        model_proto: SentencePiece model.
        config: of `siglip_tf.data.Preprocessing`.
        length: tokens per text.

    Returns:
        Notes on where `SiglipTokenizer` prepares text otherwise than this checkpoint.
    """
    from sentencepiece import SentencePieceProcessor

    text = (config or {}).get("text") or {}
    pieces = SentencePieceProcessor(model_proto=model_proto)
    special = {
        "eos_token": pieces.id_to_piece(text.get("eos_id", 1)),
        "pad_token": pieces.id_to_piece(text.get("pad_id", 1)),
        "unk_token": pieces.id_to_piece(pieces.unk_id()),
    }
    (folder / _MODELS[0]).write_bytes(model_proto)
    write_json(folder / SPECIAL, special)
    write_json(
        folder / CONFIG,
        {
            "tokenizer_class": "SiglipTokenizer",
            "processor_class": "SiglipProcessor",
            "do_lower_case": text.get("lower_case", "ascii") != "none",
            "model_max_length": length,
            "model_input_names": ["input_ids"],
            "clean_up_tokenization_spaces": True,
            "additional_special_tokens": [],
            "sp_model_kwargs": {},
            **special,
        },
    )
    notes = []
    if text.get("punctuation", "keep") == "keep":
        notes.append("Hugging Face's SiglipTokenizer drops punctuation; this checkpoint's text keeps it.")
    if text.get("lower_case", "ascii") == "ascii":
        notes.append("Hugging Face's SiglipTokenizer lower-cases every script; this checkpoint's text A to Z only.")
    return tuple(notes)
