"""The READMEs beside LiteRT and ONNX files: what the client must do itself, with a program that needs no TensorFlow."""

import keras

from siglip_tf.data.preprocessing import Preprocessing
from siglip_tf.export.client import client_rules, python_example

_LITERT = """\
# A SigLIP model for LiteRT

`model.tflite`, {precision}, {megabytes:.1f} MB, written by siglip_tf. It has two signatures:

| signature | input | output, l2-normalized |
|---|---|---|
| `encode_image` | {images} | `embedding` (batch, {dim}) |
| `encode_text` | `token_ids` int32 (batch, {length}) | `embedding` (batch, {dim}) |

LiteRT cannot decode images or tokenize texts, so the client does both:

{rules}

In Python, with `pip install ai-edge-litert sentencepiece pillow`:

```python
{example}```
"""
_LITERT_ASK = """
interpreter = Interpreter("model.tflite")

def ask(tower, **inputs):
    return interpreter.get_signature_runner(tower)(**inputs)["embedding"]
"""

_ONNX = """\
# A SigLIP model for ONNX

Written by siglip_tf: opset {opset}, {precision}, {megabytes:.1f} MB. The batch is dynamic.

| file | input | output, l2-normalized |
|---|---|---|
| `encode_image.onnx` | {images} | `embedding` (batch, {dim}) |
| `encode_text.onnx` | `token_ids` int32 (batch, {length}) | `embedding` (batch, {dim}) |

Decoding of images and tokenization of texts are not in the files. The client does both:

{rules}

## In Python

With `pip install onnxruntime sentencepiece pillow`:

```python
{example}```

## In a browser

`index.html` compares a picture with texts in the browser. Start a server in this folder, and open
http://localhost:8000:

    python -m http.server

`siglip.mjs` does the work, and can be imported by a page of your own:

```html
<script type="module">
  import {{ load }} from "./siglip.mjs";
  const model = await load(".");
  const image = await model.image(await (await fetch("picture.jpg")).blob());
  console.log(model.scores(image, await model.texts(["a cat", "a dog"])).probabilities);
</script>
```

Copy the import map of `index.html` to that page too: it stands in for two modules of Node.

It uses two packages: onnxruntime-web 1.30.0 runs the towers, and @sctg/sentencepiece-js 1.3.3, SentencePiece compiled
to WebAssembly, tokenizes. They come from https://cdn.jsdelivr.net/npm/. To serve them yourself, install them into this
folder; the page then uses `node_modules/`:

    npm install onnxruntime-web@1.30.0 @sctg/sentencepiece-js@1.3.3

Browsers decode JPEG files slightly differently from Pillow, and `siglip.mjs` resizes in floating point. Expect pixels
that differ by a level or two of 255, and the same ranking.
"""
_ONNX_ASK = """
sessions = {tower: onnxruntime.InferenceSession(f"{tower}.onnx") for tower in ("encode_image", "encode_text")}

def ask(tower, **inputs):
    return sessions[tower].run(None, inputs)[0]
"""


def litert_readme(model: keras.Model, preprocessing: Preprocessing, precision: str, model_bytes: int) -> str:
    """Markdown for the folder of a LiteRT export."""
    example = python_example(model, preprocessing, "from ai_edge_litert.interpreter import Interpreter", _LITERT_ASK)
    return _LITERT.format(**_shared(model, preprocessing, precision, model_bytes), example=example)


def onnx_readme(model: keras.Model, preprocessing: Preprocessing, precision: str, model_bytes: int, opset: int) -> str:
    """Markdown for the folder of an ONNX export."""
    example = python_example(model, preprocessing, "import onnxruntime", _ONNX_ASK)
    shared = _shared(model, preprocessing, precision, model_bytes)
    return _ONNX.format(**shared, example=example, opset=opset)


def _shared(model: keras.Model, preprocessing: Preprocessing, precision: str, model_bytes: int) -> dict:
    if model.max_patches is None:
        images = f"`images` float32 (batch, {model.image_size[0]}, {model.image_size[1]}, 3) in [-1, 1]"
    else:
        values = 3 * model.image.patch_size**2
        images = (
            f"`patches` float32 (batch, {model.max_patches}, {values}) in [-1, 1], `grid` int32 (batch, 2): rows and "
            "columns of each picture's patches"
        )
    return {
        "precision": precision,
        "megabytes": model_bytes / 1e6,
        "images": images,
        "dim": model.embed_dim,
        "length": model.text_length,
        "rules": client_rules(model, preprocessing),
    }
