"""Converts a `tokenizer.json` of the tokenizers library to a SentencePiece model with the same ids, and back.

SentencePiece merges any two neighbors that form a piece, in order of the piece's score. The library merges only listed
pairs, in order of their rank. The two are equal if the list contains every such pair, and all pairs of a piece are
adjacent in it. This module checks both conditions.

Source: tokenizers `models/{bpe,unigram}`; SentencePiece `bpe_model.cc`, `normalizer.cc`, `sentencepiece_model.proto`.
"""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_SPACE = "▁"
# The types of pieces in a SentencePiece model.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_ASCII_LOWER = [
    {"type": "Replace", "pattern": {"String": upper}, "content": upper.lower()} for upper in string.ascii_uppercase
]
_LOWER = {"type": "Lowercase"}  # letter by letter, so it does not handle the final sigma
# Unicode's rule is that a sigma after a cased letter and not before one is final. Case-ignorable characters are
# skipped, but at most two after the letter, because a look-behind in this regular expression has a fixed length.
_CASED, _IGNORABLE = r"[\p{Lu}\p{Ll}\p{Lt}]", "['.:\u00b7\u2019" + r"\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}]"
_FINAL_SIGMA = {
    "type": "Replace",
    "pattern": {
        "Regex": f"(?<={_CASED}|{_CASED}{_IGNORABLE}|{_CASED}{_IGNORABLE}{_IGNORABLE})Σ(?!{_IGNORABLE}*{_CASED})"
    },
    "content": "ς",
}
_LOWER_CASE: Mapping[str, Sequence[dict[str, Any]]] = {
    "unicode": [_FINAL_SIGMA, _LOWER],
    "simple": [_LOWER],
    "ascii": _ASCII_LOWER,
}
# Extra white space for SentencePiece is only spaces. The library's Strip would also remove line breaks.
_STRIP = {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}
_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_COLLAPSE = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
# Texts for which the converted model must give the same ids.
_SAMPLES = (
    "a photo of a cat.",
    "The quick brown fox, jumped over the lazy dog!",
    "  two  spaces   and\ttabs\n\nlines ",
    "ÀÉÎ grüße Straße ﬁ ½",
    "猫の写真 🐈 кошка قطة แมว",
    "",
    " ",
    "x" * 50,
    "0123456789 {}[]()<>&%$#@!?;:'\"",
)


def sentence_pieces(model: bytes | None) -> SentencePieceProcessor | None:
    """Loads a SentencePiece model. Returns None for None and for bytes that are not a SentencePiece model."""
    from sentencepiece import SentencePieceProcessor

    if model is None:
        return None
    try:
        return SentencePieceProcessor(model_proto=model)
    except RuntimeError:
        return None


class UnlikeSentencePieceError(ValueError):
    """Raised if no SentencePiece model equals a tokenizer.json. The message names the part that differs."""


def from_json(content: Any) -> tuple[bytes, str]:
    """Converts a tokenizer.json to a SentencePiece model.

    Args:
        content: the content of the tokenizer.json.

    Returns:
        The serialized model, and the lower-casing before it: "unicode", "simple", "ascii", or "none", as in
        `siglip_tf.data.Tokenizer`.

    Raises:
        UnlikeSentencePieceError: if the tokenizer has a part that SentencePiece does not have, or gives other ids for
            sample texts.
    """
    from sentencepiece import sentencepiece_model_pb2 as messages

    try:
        proto = messages.ModelProto()
        lower_case = _read_normalizer(content, proto)
        _read_pieces(content, proto)
        model = proto.SerializeToString()
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        if isinstance(error, UnlikeSentencePieceError):
            raise
        raise UnlikeSentencePieceError(f"it lacks or mistypes {error}") from error
    _compare_ids(content, model, lower_case)
    return model, lower_case


def to_json(model: bytes, lower_case: str, eos_id: int) -> dict[str, Any]:
    """Returns the content of a tokenizer.json that gives the ids of a SentencePiece model, followed by EOS.

    Args:
        model: a serialized SentencePiece model of type unigram or BPE.
        lower_case: the lower-casing of a text: "unicode", "simple", "ascii", or "none".
        eos_id: the id of the end of sentence.

    Raises:
        ValueError: if the model is of type word or char.
    """
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto = messages.ModelProto.FromString(model)
    trained, pieces = proto.trainer_spec, list(proto.pieces)
    unknown = next(i for i, piece in enumerate(pieces) if piece.type == _UNKNOWN)
    if trained.model_type not in (trained.UNIGRAM, trained.BPE):
        raise ValueError("Expected a SentencePiece model of type unigram or BPE. Received: words or characters.")
    shared = {"byte_fallback": any(piece.type == _BYTE for piece in pieces)}
    if trained.model_type == trained.UNIGRAM:
        vocab: Any = [[piece.piece, piece.score] for piece in pieces]
        kind = {"type": "Unigram", "unk_id": unknown, "vocab": vocab, **shared}
    else:
        vocab = {piece.piece: i for i, piece in enumerate(pieces)}
        kind = {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[unknown].piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            **shared,
            "vocab": vocab,
            "merges": [list(pair) for pair in _merges(pieces)],
        }
    eos = pieces[eos_id].piece
    added = [i for i, piece in enumerate(pieces) if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED) or i == eos_id]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(i, pieces[i].piece, special=pieces[i].type != _USER_DEFINED or i == eos_id) for i in added
        ],
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(proto.normalizer_spec, lower_case))},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": eos, "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": eos, "type_id": 1}},
            ],
            "special_tokens": {eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": kind,
    }


def special_tokens(content: Mapping[str, Any]) -> list[str]:
    """Returns the special tokens of a tokenizer.json, which become one id wherever they occur in a text."""
    return [token["content"] for token in content.get("added_tokens") or () if token.get("special")]


def is_gemma_like(model: bytes) -> bool:
    """Whether transformers' `Siglip2Tokenizer`, which has only a vocabulary and merges, can represent this model."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto = messages.ModelProto.FromString(model)
    spec = proto.normalizer_spec
    plain = not (spec.precompiled_charsmap or spec.add_dummy_prefix or spec.remove_extra_whitespaces)
    return plain and proto.trainer_spec.model_type == proto.trainer_spec.BPE


def _normalizers(spec: Any, lower_case: str) -> Iterable[dict[str, Any]]:
    yield from _LOWER_CASE.get(lower_case, ())
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode("ascii")
        yield {"type": "Precompiled", "precompiled_charsmap": charsmap}
    if spec.remove_extra_whitespaces:
        yield _STRIP
        yield _COLLAPSE | {"content": " "}
    if spec.add_dummy_prefix:
        yield {"type": "Prepend", "prepend": _SPACE}
    yield _ESCAPE


def _added_token(number: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": special}


def _merges(pieces: Iterable[Any]) -> list[tuple[str, str]]:
    """Returns the pairs of pieces that form a piece, best score first."""
    normal = {piece.piece: (number, piece.score) for number, piece in enumerate(pieces) if piece.type == _NORMAL}
    found = []
    for whole, (_, score) in normal.items():
        for left, right in _splits(whole):
            if left in normal and right in normal:
                found.append((-score, normal[left][0], normal[right][0], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _splits(piece: str) -> Iterable[tuple[str, str]]:
    return ((piece[:i], piece[i:]) for i in range(1, len(piece)))


def _read_normalizer(content: Mapping[str, Any], proto: Any) -> str:
    """Fills `normalizer_spec` and returns the lower-casing."""
    spec = proto.normalizer_spec
    spec.name, spec.add_dummy_prefix = "tokenizer.json", False
    spec.remove_extra_whitespaces, spec.escape_whitespaces = False, True
    steps = _flat(content["normalizer"], "normalizers")
    lower_case = next((name for name, first in _LOWER_CASE.items() if steps[: len(first)] == first), "none")
    steps = steps[len(_LOWER_CASE.get(lower_case, ())) :]
    before: list[Any] = []
    for step in steps:
        _read_step(step, before, spec)
        before.append(step)
    splits = _flat(content["pre_tokenizer"], "pretokenizers")
    for step in splits:
        _read_split(step, spec)
    if _ESCAPE not in steps and not any(step["type"] == "Metaspace" for step in splits):
        raise UnlikeSentencePieceError(f"it does not write spaces as {_SPACE}")
    return lower_case


def _read_step(step: Mapping[str, Any], before: list[Any], spec: Any) -> None:
    stripped = _STRIP in before or any(other["type"] == "Strip" for other in before)
    match step["type"]:
        case "Precompiled" if not before:
            spec.precompiled_charsmap = base64.b64decode(step["precompiled_charsmap"])
        case "Strip" if step["strip_right"] and spec.precompiled_charsmap:  # the map has turned line breaks into spaces
            pass
        case "Replace" if step in (_STRIP, _ESCAPE):
            pass
        case "Replace" if stripped and {**step, "content": ""} == _COLLAPSE | {"content": ""}:
            spec.remove_extra_whitespaces = True
        case "Prepend" if step["prepend"] == _SPACE:
            spec.add_dummy_prefix = True
        case other:
            raise UnlikeSentencePieceError(f"its normalizer has a step {other}: {str(step)[:120]}")


def _read_split(step: Mapping[str, Any], spec: Any) -> None:
    match step["type"]:
        case "Metaspace" if step["replacement"] == _SPACE:
            prefix = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            spec.add_dummy_prefix |= prefix != "never"
        case "WhitespaceSplit" if spec.remove_extra_whitespaces:
            pass
        case "Split" if step["pattern"] == {"String": " "}:
            pass  # SentencePiece's own vocabularies have no piece with a space inside
        case other:
            raise UnlikeSentencePieceError(f"its pre_tokenizer has a step {other}: {str(step)[:120]}")


def _flat(part: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return [step for inner in part[key] for step in _flat(inner, key)] if part["type"] == "Sequence" else [part]


def _read_pieces(content: Mapping[str, Any], proto: Any) -> None:
    """Fills `pieces` and `trainer_spec`."""
    model, trained = content["model"], proto.trainer_spec
    special, fixed = _added(content)
    match model.get("type"):
        case "Unigram":
            trained.model_type = trained.UNIGRAM
            scores = {piece: (number, score) for number, (piece, score) in enumerate(model["vocab"])}
            unknown = model["unk_id"]
        case "BPE":
            trained.model_type = trained.BPE
            ranks = _ranks(model, special | fixed)
            scores = {piece: (number, -float(ranks.get(piece, 0))) for piece, number in model["vocab"].items()}
            unknown = model["vocab"][model["unk_token"]]
        case other:
            raise UnlikeSentencePieceError(f"its model is of type {other!r}; expected Unigram or BPE")
    for piece, number in (special | fixed).items():
        scores.setdefault(piece, (number, 0.0))
    ordered = sorted((number, piece, score) for piece, (number, score) in scores.items())
    if [number for number, *_ in ordered] != list(range(len(ordered))):
        raise UnlikeSentencePieceError("its ids do not count from 0 without a gap")
    fallback = bool(model.get("byte_fallback", False))
    for number, piece, score in ordered:
        kind = _NORMAL
        if number == unknown:
            kind = _UNKNOWN
        elif piece in special:
            kind = _CONTROL
        elif piece in fixed:
            kind = _USER_DEFINED
        elif fallback and _is_byte(piece):
            kind = _BYTE
        proto.pieces.add(piece=piece, score=score, type=kind)
    trained.vocab_size, trained.byte_fallback, trained.unk_id = len(ordered), fallback, unknown
    trained.unk_piece = ordered[unknown][1]
    trained.bos_id = trained.eos_id = trained.pad_id = -1


def _added(content: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the ids of special tokens, which no text can form, and of tokens that are always one piece."""
    special: dict[str, int] = {}
    fixed: dict[str, int] = {}
    for token in content.get("added_tokens") or ():
        if not token["special"] and any(token[key] for key in ("single_word", "lstrip", "rstrip")):
            raise UnlikeSentencePieceError(f"its added token {token['content']!r} takes the spaces beside it")
        (special if token["special"] else fixed)[token["content"]] = token["id"]
    return special, fixed


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _ranks(model: Mapping[str, Any], added: Mapping[str, int]) -> dict[str, int]:
    """Returns the rank of each merged piece in the order of merging."""
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UnlikeSentencePieceError("its merges have dropout, a prefix or a suffix")
    if model.get("ignore_merges"):
        raise UnlikeSentencePieceError("it takes whole words before it merges")
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    ranks: dict[str, int] = {}
    last = None
    for left, right in pairs:
        whole = left + right
        if whole != last and whole in ranks:
            raise UnlikeSentencePieceError(f"its merges to {whole!r} have another piece's between them")
        ranks.setdefault(whole, len(ranks))
        last = whole
    listed = set(pairs)
    vocab = model["vocab"]
    if strange := next((whole for whole in ranks if whole not in vocab), None):
        raise UnlikeSentencePieceError(f"it merges to {strange!r}, which is no piece")
    for whole in vocab:
        if whole in added or whole == model["unk_token"] or _is_byte(whole):
            continue
        for pair in _splits(whole):
            if pair not in listed and pair[0] in vocab and pair[1] in vocab:
                raise UnlikeSentencePieceError(f"it does not merge {pair[0]!r} and {pair[1]!r}")
    return ranks


def _compare_ids(content: Mapping[str, Any], model: bytes, lower_case: str) -> None:
    try:
        import tokenizers
    except ImportError:  # without the library, only the parts are checked
        return
    try:
        theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises plain Exceptions
        raise UnlikeSentencePieceError(f"it cannot be read: {error}") from error
    ours = sentence_pieces(model)
    if ours is None:
        raise UnlikeSentencePieceError("SentencePiece refuses its pieces")
    theirs.no_truncation()
    theirs.no_padding()
    for text in _SAMPLES:
        wanted = theirs.encode(text, add_special_tokens=False).ids
        found = ours.encode(lowered(text, lower_case))
        if wanted != found:
            raise UnlikeSentencePieceError(f"its ids of {text!r} are {wanted}, SentencePiece's {found}")


def lowered(text: str, lower_case: str) -> str:
    """Lower-cases a text by the rule `lower_case`: "unicode", "simple", "ascii", or "none"."""
    if lower_case == "ascii":
        return text.translate(str.maketrans(string.ascii_uppercase, string.ascii_lowercase))
    if lower_case == "simple":
        return "".join(letter.lower() for letter in text)
    return text.lower() if lower_case == "unicode" else text
