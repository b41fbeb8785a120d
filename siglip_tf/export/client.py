"""What a client does around exported towers: as settings in JSON, in words, and as Python code for a README.

ONNX and LiteRT files hold the towers alone. Decoding, resizing, and tokenization are the client's.
"""

from typing import Any

import keras
import numpy as np

from siglip_tf.data.preprocessing import Preprocessing

SETTINGS_FILE = "preprocessing.json"
TOKENIZER_FILE = "tokenizer.model"

_RESIZE = {
    "bicubic_antialias": "Pillow's bicubic filter, which antialiases",
    "bilinear_antialias": "Pillow's bilinear filter, which antialiases",
    "big_vision": "bilinear without antialiasing, half-pixel centers, cut to bytes",
}
_LOWER_CASE = {  # how -> (in words, in Python)
    "unicode": ("lower-case every script", "text.lower()"),
    "simple": ("lower-case each character by itself", '"".join(letter.lower() for letter in text)'),
    "ascii": ("lower-case A to Z only", 're.sub("[A-Z]", lambda letter: letter[0].lower(), text)'),
    "none": ("do not change the case", "text"),
}
_STRIP = r"""" ".join(re.sub(r"[!-/:-@\[-`{{-~]", "", {text}).split())"""

_EXAMPLE = """\
{imports}
from PIL import Image, ImageOps

tokenizer = sentencepiece.SentencePieceProcessor(model_file="{tokenizer}")
{ask}
{picture}
def tokens(text):
    ids = tokenizer.encode({text})[:{last}] + [{eos}]
    return ids + [{pad}] * ({length} - len(ids))

image = ask("encode_image", {inputs})
texts = ask("encode_text", token_ids=np.array([tokens(text) for text in ("a cat", "a dog")], np.int32))
logits = {temperature:.7g} * image @ texts.T + {bias:.7g}
print({printed})
"""

_OPEN = """
def picture(path):
    picture = {opened}{white}
"""
_WHITE = """
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")"""
_PILLOW = """\
    return np.asarray(picture.resize(({width}, {height}), Image.{filter}), np.float32) / 127.5 - 1
"""
# The order of TensorFlow's float32 sums, so that the cut to bytes gives the same.
_BILINEAR = """\
    pixels = np.asarray(picture, np.float32)
    for axis, size in ((1, {width}), (0, {height})):  # bilinear without antialiasing
        n = pixels.shape[axis]
        place = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(n / size) - 0.5
        low, high = (pixels.take(np.clip(i, 0, n - 1).astype(int), axis) for i in (np.floor(place), np.ceil(place)))
        pixels = low + (high - low) * np.expand_dims(place - np.floor(place), (2, 1 - axis))
    return np.floor(pixels) / 127.5 - 1
"""
_NAFLEX = """\
    low, high, size = 1e-6, 100.0, np.array(picture.size[::-1])
    grid = lambda scale: np.maximum(np.ceil(size * scale / {side}), 1).astype(int)
    while high - low >= 1e-5:  # the largest grid of at most {most} patches
        middle = (low + high) / 2
        low, high = (middle, high) if grid(middle).prod() <= {most} else (low, middle)
    rows, columns = grid(low)
    pixels = np.asarray(picture.resize((columns * {side}, rows * {side}), Image.{filter}), np.float32)
    patches = pixels.reshape(rows, {side}, columns, {side}, 3).swapaxes(1, 2).reshape(rows * columns, -1)
    patches = np.pad(patches, ((0, {most} - len(patches)), (0, 0))) / np.float32(127.5) - 1
    return dict(patches=patches[None], grid=np.array([[rows, columns]], np.int32))
"""


def client_settings(model: keras.Model, preprocessing: Preprocessing) -> dict[str, Any]:
    """Everything that a client must do to images, texts, and scores, JSON-able."""
    image, text = preprocessing.image.to_config(), preprocessing.text
    del image["max_pixels"]
    image.pop("scaled_decoding", None)
    if image.pop("size", None) is not None:
        image = {"height": model.image_size[0], "width": model.image_size[1], **image}
    return {
        "image": {**image, "mean": 127.5, "divide_by": 127.5},
        "text": {
            "model": TOKENIZER_FILE,
            **text.get_config(),
            "special_tokens": list(text.special_tokens),
        },
        "score": {"temperature": _temperature(model), "bias": _bias(model), "loss": model.loss_name},
    }


def client_rules(model: keras.Model, preprocessing: Preprocessing) -> str:
    """What a client does, as Markdown."""
    image, text = preprocessing.image.to_config(), preprocessing.text
    upright = ", turn it upright by its EXIF tag" if image["exif"] else ", do not turn it by its EXIF tag"
    white = ", compose transparent pictures on white" if image.get("alpha") == "white" else ""
    resize = _RESIZE[image["method"]]
    if model.max_patches is not None:
        side = image["patch_size"]
        how = (
            f"choose the grid of at most {image['max_patches']} patches that keeps the aspect, as the example does; "
            f"resize to rows * {side} x columns * {side} pixels ({resize}); cut into patches of {side} x {side} x 3 "
            f"values, row by row; append zeros to {image['max_patches']} patches; then `value / 127.5 - 1`"
        )
    else:
        how = f"resize to {model.image_size[0]} x {model.image_size[1]} ({resize}); then `value / 127.5 - 1`"
    lower = _LOWER_CASE[text.lower_case][0]
    strip = ", remove ASCII punctuation, collapse white space" if text.punctuation == "strip" else ""
    special = (
        f" Where a text spells out one of {', '.join(text.special_tokens)}, this package gives the piece's own id; the "
        "example does not."
        if text.special_tokens
        else ""
    )
    return f"""\
- **Images**: decode to RGB{upright}{white}; {how}.
- **Texts**: {lower}{strip}; tokenize with SentencePiece and `{TOKENIZER_FILE}`; keep at most {text.length - 1} ids,
  append the end token {text.eos_id}, and pad with {text.pad_id} to {text.length} ids.{special}
- **Scores**: `logits = {_temperature(model):.7g} * image @ text.T + {_bias(model):.7g}`. {_reading(model)}

`{SETTINGS_FILE}` says the same for programs."""


def python_example(model: keras.Model, preprocessing: Preprocessing, imports: str, ask: str) -> str:
    """A program without TensorFlow that embeds a picture and two texts and prints how well they match.

    Args:
        model: the model that was exported.
        preprocessing: of that model.
        imports: a line that imports the runtime.
        ask: lines that define `ask(tower, **inputs)`, which returns embeddings.
    """
    image, text = preprocessing.image.to_config(), preprocessing.text
    values = {
        "filter": "BICUBIC" if image["method"] == "bicubic_antialias" else "BILINEAR",
        "height": model.image_size[0],
        "width": model.image_size[1],
        "side": image.get("patch_size"),
        "most": image.get("max_patches"),
    }
    opened = "ImageOps.exif_transpose(Image.open(path))" if image["exif"] else "Image.open(path)"
    white = image.get("alpha") == "white"
    body = _NAFLEX if model.max_patches is not None else _BILINEAR if image["method"] == "big_vision" else _PILLOW
    cased = _LOWER_CASE[text.lower_case][1]
    prepared = _STRIP.format(text=cased) if text.punctuation == "strip" else cased
    return _EXAMPLE.format(
        imports=f"import {'re, ' if 're.' in prepared else ''}numpy as np, sentencepiece\n{imports}",
        tokenizer=TOKENIZER_FILE,
        ask=ask,
        picture=_OPEN.format(opened=opened + ("" if white else '.convert("RGB")'), white=_WHITE if white else "")
        + body.format(**values),
        text=prepared,
        last=text.length - 1,
        length=text.length,
        eos=text.eos_id,
        pad=text.pad_id,
        inputs='**picture("picture.jpg")' if model.max_patches is not None else 'images=picture("picture.jpg")[None]',
        temperature=_temperature(model),
        bias=_bias(model),
        printed="1 / (1 + np.exp(-logits))" if model.bias is not None else "np.exp(logits) / np.exp(logits).sum(-1)",
    )


def _temperature(model: keras.Model) -> float:
    return float(np.exp(np.asarray(model.log_temperature)))


def _bias(model: keras.Model) -> float:
    return 0.0 if model.bias is None else float(np.asarray(model.bias))


def _reading(model: keras.Model) -> str:
    if model.bias is None:
        return "This model was trained with the softmax loss: compare or rank the logits of one image."
    return (
        "Their sigmoid is the probability that an image and a text belong together. Probabilities are absolute and "
        "often small: rank or compare them."
    )
