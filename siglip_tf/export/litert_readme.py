"""The README beside a LiteRT file: what the client must do itself, with a program that needs no TensorFlow."""

import keras
import numpy as np

from siglip_tf.data.preprocessing import Preprocessing

_TEXT = """\
# A SigLIP model for LiteRT

`model.tflite`, {precision}, {megabytes:.1f} MB, written by siglip_tf. It has two signatures:

| signature | input | output, l2-normalized |
|---|---|---|
| `encode_image` | `images` float32 (batch, {height}, {width}, 3) in [-1, 1] | `embedding` (batch, {dim}) |
| `encode_text` | `token_ids` int32 (batch, {length}) | `embedding` (batch, {dim}) |

LiteRT cannot decode images or tokenize texts, so the client does both:

- **Images**: decode to RGB{alpha}, resize to {height} x {width} ({method}), then `pixels / 127.5 - 1`.
- **Texts**: {lower_case}{punctuation}, then tokenize with SentencePiece and `tokenizer.model`, keep at most
  {length_minus_one} ids, append the end token {eos}, and pad with {pad} to {length} ids.
- **Scores**: `logits = {temperature:.6f} * image @ text.T + {bias:.6f}`; their sigmoid is the probability that an image
  and a text belong together. Probabilities are absolute and often small: rank or compare them.

```python
import numpy as np, sentencepiece
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

interpreter = Interpreter("model.tflite")
tokenizer = sentencepiece.SentencePieceProcessor(model_file="tokenizer.model")

def ask(signature, **inputs):
    return interpreter.get_signature_runner(signature)(**inputs)["embedding"]

def tokens(text):
    ids = tokenizer.encode({python_lower})[: {length_minus_one}] + [{eos}]
    return ids + [{pad}] * ({length} - len(ids))

picture = Image.open("picture.jpg").convert("RGB").resize(({width}, {height}), Image.{pillow})
image = ask("encode_image", images=np.asarray(picture, np.float32)[None] / 127.5 - 1)
texts = np.concatenate([ask("encode_text", token_ids=np.array([tokens(t)], np.int32)) for t in ("a cat", "a dog")])
logits = {temperature:.6f} * image @ texts.T + {bias:.6f}
print(1 / (1 + np.exp(-logits)))
```
{resize_note}"""

_RESIZE = {  # method -> (in words, Pillow's filter, note)
    "bicubic_antialias": ("bicubic with antialiasing", "BICUBIC", ""),
    "bilinear_antialias": ("bilinear with antialiasing", "BILINEAR", ""),
    "big_vision": (
        "bilinear without antialiasing",
        "BILINEAR",
        "\nPillow's filters antialias, and this model was trained without antialiasing: the example is not exact.\n"
        "`tf.image.resize(image, size, method='bilinear', antialias=False)` is exact.\n",
    ),
}


def litert_readme(model: keras.Model, preprocessing: Preprocessing, precision: str, model_bytes: int) -> str:
    """Markdown for the folder of a LiteRT export."""
    image, text = preprocessing.image.to_config(), preprocessing.text
    method, pillow, note = _RESIZE.get(image["method"], (image["method"], "BICUBIC", ""))
    lower = text.lower_case != "none"
    return _TEXT.format(
        precision=precision,
        megabytes=model_bytes / 1e6,
        alpha=" (compose transparent pictures on white)" if image.get("alpha") == "white" else "",
        height=model.image_size[0],
        width=model.image_size[1],
        dim=model.embed_dim,
        length=model.text_length,
        length_minus_one=model.text_length - 1,
        method=method,
        pillow=pillow,
        resize_note=note,
        lower_case="lower-case" if lower else "do not change the case",
        punctuation=", remove ASCII punctuation" if text.punctuation == "strip" else "",
        python_lower="text.lower()" if lower else "text",
        eos=text.eos_id,
        pad=text.pad_id,
        temperature=float(np.exp(np.asarray(model.log_temperature))),
        bias=0.0 if model.bias is None else float(np.asarray(model.bias)),
    )
