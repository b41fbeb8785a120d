"""The tokenizer of a Hugging Face folder: its SentencePiece model and the files around it.

Source: transformers `models/{siglip,siglip2,gemma}/tokenization_*.py`, `models/auto/tokenization_auto.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siglip_tf.checkpoints.checkpoint import CheckpointError
from siglip_tf.checkpoints.files import read_json, write_json
from siglip_tf.checkpoints.tokenizer_json import (
    UnlikeSentencePieceError,
    from_json,
    is_gemma_like,
    sentence_pieces,
    special_tokens,
    to_json,
)

_MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.model")
CONFIG, SPECIAL, FAST = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"
FILES = (*_MODELS[:2], CONFIG, SPECIAL, FAST)

_GEMMA = ("GemmaTokenizer", "Siglip2Tokenizer")
# Special tokens that transformers recognizes in a text even if the folder does not name them.
_SIGLIP_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
_GEMMA_TOKENS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk", "mask")}
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "mask_token", "sep_token", "cls_token")


def read_tokenizer(
    folder: Path, text: Mapping[str, Any] | None, model_type: str = "siglip"
) -> tuple[bytes | None, dict[str, Any] | None, tuple[str, ...]]:
    """Reads the SentencePiece model and the options of its text preprocessing.

    Args:
        folder: the folder of the checkpoint.
        text: the default configuration of `siglip_tf.data.Tokenizer`, or None if there is no text tower.
        model_type: the model type in the folder's `config.json`. For "siglip2", transformers 5 uses a
            `Siglip2Tokenizer`.

    Returns:
        The model's bytes or None, the configuration or None, and notes.

    Raises:
        CheckpointError: if a file is not JSON or has an unexpected form.
    """
    if text is None:
        return None, None, ()
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if config is not None and not isinstance(config, Mapping):
        raise CheckpointError(f"{folder / CONFIG} is not a JSON object. Received: {type(config).__name__}.")
    file = next((folder / name for name in _MODELS if (folder / name).is_file()), None)
    model, lower_case, content = None, None, None
    notes: tuple[str, ...] = ()
    if (folder / FAST).is_file():
        content = read_json(folder / FAST)
    if file is not None:
        model = file.read_bytes()
    elif content is not None:
        try:
            model, lower_case = from_json(content)
            notes = (f"The SentencePiece model was made of {FAST}, and gives its ids.",)
        except UnlikeSentencePieceError as error:
            notes = (
                f"No tokenizer was read: no SentencePiece model equals its {FAST}, because {error}. Fetch the model's "
                f"{' or '.join(_MODELS[:2])} and put it into the folder, or name it: --tokenizer FILE.",
            )
    if config is None and model is None:
        return None, dict(text), notes
    if config is None and model_type == "siglip2":
        config = {"pad_token": _GEMMA_TOKENS["pad_token"]}
    if config is None:
        said = {"lower_case": lower_case} if lower_case is not None else {}
        options = {**text, **said, **_special({}, content, model, "")}
        rest = "else " if said else ""
        return model, options, (*notes, f"No {CONFIG}: texts are {rest}prepared as big_vision did in training.")
    if lower_case is None and _kind(config) not in ("SiglipTokenizer", *_GEMMA) and content is not None:
        lower_case = _lower_case_of(content)
    options, more = _text_options(config, lower_case, model_type)
    options |= _special(config, content, model, "Siglip2Tokenizer" if model_type == "siglip2" else _kind(config))
    if (pad_id := _piece_id(model, _content(config.get("pad_token")))) is not None:
        options["pad_id"] = pad_id
    return model, {**text, **options}, notes + more


def write_tokenizer(folder: Path, model: bytes, text: Mapping[str, Any], length: int) -> tuple[str, ...]:
    """Writes the files of the tokenizer class that gives the same ids as this checkpoint.

    `SiglipTokenizer` removes punctuation. If the texts keep it, a `tokenizer.json` is written instead, for the class
    `Siglip2Tokenizer` if possible, or else for the general class.

    Args:
        folder: the folder to write to.
        model: the SentencePiece model.
        text: the configuration of `siglip_tf.data.Tokenizer`.
        length: the number of tokens per text.

    Returns:
        Notes on text that transformers prepares differently.

    Raises:
        ValueError: if `model` is not a SentencePiece model.
    """
    lower_case = text.get("lower_case", "ascii")
    pieces = sentence_pieces(model)
    if pieces is None:
        raise ValueError("The checkpoint's tokenizer is not a SentencePiece model.")
    special = {
        "eos_token": pieces.id_to_piece(text.get("eos_id", 1)),
        "pad_token": pieces.id_to_piece(text.get("pad_id", 1)),
        "unk_token": pieces.id_to_piece(pieces.unk_id()),
    }
    config = {
        "processor_class": "SiglipProcessor",
        "do_lower_case": lower_case != "none",
        "model_max_length": length,
        "model_input_names": ["input_ids"],
        "padding_side": "right",
        "truncation_side": "right",
        **special,
    }
    notes: tuple[str, ...] = ()
    if text.get("punctuation", "keep") == "strip":
        name, kind = _MODELS[0], "SiglipTokenizer"
        config |= {"clean_up_tokenization_spaces": True, "additional_special_tokens": [], "sp_model_kwargs": {}}
        if lower_case == "ascii":
            notes = ("Hugging Face's SiglipTokenizer lower-cases every script; this checkpoint's text A to Z only.",)
        elif lower_case == "simple":
            notes = ("Hugging Face's SiglipTokenizer knows the final sigma of Greek; this checkpoint's text does not.",)
    else:
        name = _MODELS[1]
        kind = "Siglip2Tokenizer" if lower_case == "simple" and is_gemma_like(model) else "PreTrainedTokenizerFast"
        config |= {"add_bos_token": False, "add_eos_token": True, "clean_up_tokenization_spaces": False}
        write_json(folder / FAST, to_json(model, lower_case, text.get("eos_id", 1)))
    (folder / name).write_bytes(model)
    write_json(folder / SPECIAL, special)
    write_json(folder / CONFIG, {"tokenizer_class": kind, **config})
    fast = read_json(folder / FAST) if (folder / FAST).is_file() else None
    theirs = set(_special(config, fast, model, kind).get("special_tokens", ()))
    return notes + _notes_on_special(theirs, set(text.get("special_tokens", ())))


def _notes_on_special(theirs: set[str], ours: set[str]) -> tuple[str, ...]:
    notes = []
    if more := sorted(theirs - ours):
        notes.append(f"transformers reads {', '.join(more)} in a text as a special token; here that is only text.")
    if fewer := sorted(ours - theirs):
        notes.append(f"transformers reads {', '.join(fewer)} as text; here that is a special token.")
    return tuple(notes)


def _special(
    config: Mapping[str, Any], content: Mapping[str, Any] | None, model: bytes | None, kind: str
) -> dict[str, Any]:
    """Returns the option `special_tokens`: the tokens that transformers recognizes in a text. Empty if there are none.

    Args:
        config: the content of `tokenizer_config.json`.
        content: the content of `tokenizer.json`, or None.
        model: the SentencePiece model.
        kind: the class of the tokenizer.
    """
    pieces = sentence_pieces(model)
    if pieces is None:
        return {}
    defaults = _SIGLIP_TOKENS if kind == "SiglipTokenizer" else _GEMMA_TOKENS if kind in _GEMMA else {}
    named = [config.get(name, defaults.get(name)) for name in _NAMED_TOKENS]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or ()
        named += more.values() if isinstance(more, Mapping) else more if isinstance(more, list | tuple) else ()
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        named += [token for token in decoder.values() if isinstance(token, Mapping) and token.get("special")]
    if content is not None and kind != "SiglipTokenizer":
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # reading reports a damaged file elsewhere
            named += special_tokens(content)
    ids = {}
    for token in map(_content, named):
        if isinstance(token, str) and token and pieces.id_to_piece(number := pieces.piece_to_id(token)) == token:
            ids[token] = number
    return {"special_tokens": sorted(ids, key=ids.get)} if ids else {}


def _text_options(
    config: Mapping[str, Any], lower_case: str | None, model_type: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the options that a `tokenizer_config.json` gives for texts, and notes on differences."""
    kind, notes = _kind(config), []
    if model_type == "siglip2":
        kind = "Siglip2Tokenizer"  # transformers 5 ignores the class that the file names, because it is wrong
    if kind in _GEMMA:
        told = config.get("do_lower_case", True)
        lower_case = "none" if told is False and kind != "Siglip2Tokenizer" else "simple"
        if kind == "GemmaTokenizer" and lower_case == "simple":
            notes.append(
                "Texts are lower-cased, as in SigLIP 2's training; transformers' GemmaTokenizer, which its "
                f"{CONFIG} names, does not do it."
            )
        if config.get("padding_side", "left") != "right" or not config.get("add_eos_token", False):
            notes.append(
                f"Texts end with EOS and pads follow, as in SigLIP 2's training; its {CONFIG} has padding_side "
                f"{config.get('padding_side', 'left')!r} and add_eos_token {config.get('add_eos_token', False)!r}."
            )
    elif lower_case is None:
        lower_case = "unicode" if config.get("do_lower_case", True) else "none"
    return {
        "lower_case": lower_case,
        "pad_id": 0 if _content(config.get("pad_token")) == "<pad>" else 1,
        "punctuation": "strip" if kind == "SiglipTokenizer" else "keep",
    }, tuple(notes)


def _kind(config: Mapping[str, Any]) -> str:
    return str(config.get("tokenizer_class") or "SiglipTokenizer").removesuffix("Fast")


def _lower_case_of(content: Any) -> str | None:
    """Returns the lower-casing that a `tokenizer.json` specifies, or None."""
    try:
        return from_json(content)[1]
    except UnlikeSentencePieceError:
        return None


def _piece_id(model: bytes | None, piece: str | None) -> int | None:
    pieces = sentence_pieces(model)
    if pieces is None or piece is None:
        return None
    number = pieces.piece_to_id(piece)
    return number if pieces.id_to_piece(number) == piece else None


def _content(token: Any) -> str | None:
    """Returns the text of a special token, which is a string or an object with its text in `content`."""
    return token.get("content") if isinstance(token, Mapping) else token
