"""Describes a checkpoint for people who load or convert it."""

from __future__ import annotations

import hashlib
from typing import Any

from siglip_tf.checkpoints import architecture as arch
from siglip_tf.checkpoints.checkpoint import Checkpoint


def describe(checkpoint: Checkpoint) -> str:
    """Describes the format, towers, parameter counts, preprocessing, tokenizer, and notes of a checkpoint.

    Args:
        checkpoint: a checkpoint of any format.

    Returns:
        Lines of "name: value", without a final newline.
    """
    d = arch.of(checkpoint)
    rows = [("format", checkpoint.format)]
    if checkpoint.source:
        rows.insert(0, ("source", checkpoint.source))
    if "image_width" in d:
        rows.append(("image tower", _image_tower(d, checkpoint)))
    if "text_width" in d:
        rows += [("text tower", _text_tower(d, checkpoint)), ("logits", _logits(checkpoint))]
    rows.append(("parameters", f"{checkpoint.parameter_count():,} in {len(checkpoint.weights)} arrays"))
    rows += _preprocessing(checkpoint)
    if checkpoint.calibration is not None:
        labels = len(checkpoint.calibration.get("labels", {}))
        more = f", and thresholds of their own for {labels} labels" if labels else ""
        rows.append(("yes or no", f"from a probability of {checkpoint.calibration['threshold']:.4g} on{more}"))
    rows += [("note", note) for note in checkpoint.notes]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name + ':':{width + 1}} {what}" for name, what in rows)


def _size(d: dict[str, Any], tower: str) -> str:
    size = tuple(d[f"{tower}_{key}"] for key in ("width", "depth", "mlp_dim", "heads"))
    name = next((name for name, public in arch.PUBLIC_TOWERS.items() if public == size), None)
    spelled = "width {}, depth {}, MLP {}, {} heads".format(*size)
    return f"{name} ({spelled})" if name else spelled


def _image_tower(d: dict[str, Any], checkpoint: Checkpoint) -> str:
    height, width = arch.sides(d["image_size"])
    if "max_patches" in d:
        return (
            f"{_size(d, 'image')}, NaFlex, patch {d['patch_size']}, at most {d['max_patches']} patches, "
            f"{height // d['patch_size']} x {width // d['patch_size']} learned positions; "
            f"{checkpoint.parameter_count('image/'):,} parameters"
        )
    return (
        f"{_size(d, 'image')}, patch {d['patch_size']}, {height} x {width} pixels, pool {d['image_pool']}; "
        f"{checkpoint.parameter_count('image/'):,} parameters"
    )


def _text_tower(d: dict[str, Any], checkpoint: Checkpoint) -> str:
    bottleneck = f", bottleneck {d['token_bottleneck']}" if d["token_bottleneck"] else ""
    head = f"head to {d['embed_dim']}" if d["text_head"] else "no head"
    return (
        f"{_size(d, 'text')}, {d['text_length']} tokens, vocabulary {d['vocab_size']:,}{bottleneck}, {head}; "
        f"{checkpoint.parameter_count('text/'):,} parameters"
    )


def _logits(checkpoint: Checkpoint) -> str:
    log_temperature, bias = float(checkpoint.weights["log_temperature"]), checkpoint.weights.get("bias")
    return f"temperature exp({log_temperature:.4g}), " + ("no bias" if bias is None else f"bias {float(bias):.4g}")


def _preprocessing(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    if checkpoint.preprocessing is None:
        return [("preprocessing", "not named by the checkpoint: set `model.preprocessing` to the one of its training")]
    config, rows = checkpoint.preprocessing, []
    if image := config.get("image"):
        size = f"{image['size']} pixels" if "size" in image else f"at most {image['max_patches']} patches"
        rows.append(("images", f"{image['method']}, {size}"))
    if text := config.get("text"):
        options = ("length", "lower_case", "eos_id", "pad_id", "punctuation")
        said = [f"{key} {text[key]}" for key in options if key in text]
        if special := text.get("special_tokens"):
            said.append(f"special tokens in texts {' '.join(special[:8])}{' ...' * (len(special) > 8)}")
        rows.append(("texts", ", ".join(said)))
    if checkpoint.tokenizer is not None:
        digest = hashlib.sha256(checkpoint.tokenizer).hexdigest()[:12]
        rows.append(("tokenizer", f"SentencePiece, {len(checkpoint.tokenizer):,} bytes, SHA-256 {digest}..."))
    elif config.get("text"):
        rows.append(("tokenizer", "none in the checkpoint; name its SentencePiece model to read texts"))
    return rows
