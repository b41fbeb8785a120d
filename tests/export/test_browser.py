"""The page of an ONNX export in a headless browser. Needs chromium, chromedriver, npm, and `pip install -e .[onnx]`."""

import contextlib
import functools
import http.server
import io
import json
import shutil
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import siglip_tf
from siglip_tf.data import ImagePreprocessing, NaFlexPreprocessing, Preprocessing, Tokenizer
from siglip_tf.data.text.training import train_tokenizer
from siglip_tf.export import onnx
from tests.browser import chromium
from tests.example_model import example_model, pictures, vocabulary

pytestmark = pytest.mark.slow

PACKAGES = ("onnxruntime-web@1.30.0", "@sctg/sentencepiece-js@1.3.3")
COLORS = {"red": (220, 30, 30), "green": (30, 170, 40), "blue": (40, 60, 210)}
# What tokenizers get wrong: white space, NFKC, ligatures, final sigma, dotted I, emoji, unknown letters, no text.
STRINGS = (
    "a photo of a red circle",
    "  two  spaces   and\ttabs\n\nlines ",
    "Großes ROTES Quadrat",
    "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u038c\u03a3\u039f\u03a3",
    "\u0130STANBUL",
    "\ufb01 \u00bd \u2460 \uff46\uff55\uff4c\uff4c\u3000\uff57\uff49\uff44 \uff5e \u337f",
    "a\u0301 \u00e9 e\u0301 \u212b \u1f88 \u01c5",
    "写真 赤い 円",
    "круг слева",
    "مربع أزرق",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "",
    " ",
    "it's, {a} (test): #1 & more!",
    "x" * 100,
    "zero\u200bwidth\ufeff\u00a0space\u00ad",
    "</s> <unk> \u2581under\u2581",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with node_modules/, installed as the README says."""
    if shutil.which("npm") is None:
        pytest.fail("This test installs packages for the browser: apt-get install npm")
    folder = tmp_path_factory.mktemp("packages")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        browser.set_script_timeout(120)
        yield browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Always answers with the file: two versions of it may be written within the second that HTTP can tell apart."""

    def send_head(self):
        del self.headers["If-Modified-Since"]
        return super().send_head()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def opened(packages, browser, tmp_path):
    """Exports a model, serves its folder, and opens the page."""
    with contextlib.ExitStack() as stack:

        def open_page(model):
            onnx.export_onnx(model, tmp_path)
            (tmp_path / "node_modules").symlink_to(packages)
            browser.get(stack.enter_context(served(tmp_path)) + "/index.html")
            wait_for(browser, lambda _: browser.find_element("id", "ask").is_enabled())

        yield open_page


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(condition)


def asynchronous(browser, body, *arguments):
    """What an async function of `model` and `arguments` returns in the page."""
    script = f"""
        const done = arguments[arguments.length - 1];
        import("./siglip.mjs").then(async (siglip) => {{
            window.model ??= siglip.load(".");
            const model = await window.model;
            {body}
        }}).then(done, (error) => done({{ error: String(error) }}));
    """
    answer = browser.execute_async_script(script, *arguments)
    assert not (isinstance(answer, dict) and "error" in answer), answer
    return answer


def picture(color, size=(90, 70)):
    data = io.BytesIO()
    Image.new("RGB", size, COLORS[color]).save(data, "PNG")
    return data.getvalue()


def trained_model():
    """A tiny model that has learned three colors."""
    texts = [f"a {color} square" for color in COLORS]
    tokenizer = Tokenizer(train_tokenizer(texts * 20, 60, model_type="bpe"), 6)
    model = siglip_tf.SigLIP("mu/16", "mu", 32, 6, tokenizer.vocab_size, init_bias=-3.0)
    model.preprocessing = Preprocessing(ImagePreprocessing(32), tokenizer)
    images = tf.stack([model.preprocessing.image(picture(color)) for color in COLORS])
    model.compile(optimizer="adamw")
    model.optimizer.learning_rate = 1e-3
    batch = {"image": images, "text": tokenizer(texts)}
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(100), epochs=1, verbose=0)
    return model, texts


def test_a_picture_and_three_labels(opened, browser, tmp_path):
    model, texts = trained_model()
    opened(model)
    for color in COLORS:
        file = tmp_path / f"{color}.png"
        file.write_bytes(picture(color))
        browser.find_element("id", "picture").send_keys(str(file))
        field = browser.find_element("id", "texts")
        field.clear()
        field.send_keys("\n".join(sorted(texts, key=lambda text: color in text)))  # the right one last
        browser.find_element("id", "ask").click()
        wait_for(browser, lambda _: browser.find_element("id", "status").text.startswith("Best first"))
        rows = browser.find_elements("css selector", "#answers li")
        names = [row.find_element("class name", "text").text for row in rows]
        assert names[0] == f"a {color} square"
        found = [float(row.get_attribute("data-logit")) for row in rows]
        image = model.encode_image(model.preprocessing.image(picture(color))[None])
        expected = model.logits(image, model.encode_text(model.preprocessing.text(names)))[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)
        browser.execute_script("document.getElementById('status').textContent = ''")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def tokenizers():
    words = ["a photo of a red circle", "Größe, straße: weiß!", "写真 赤い 円", "круг слева"]
    bpe = train_tokenizer(words * 5, 400, layout="siglip2", model_type="bpe", byte_fallback=True)
    return {
        "unigram": Tokenizer(vocabulary(), 16),
        "stripped": Tokenizer(vocabulary(), 16, punctuation="strip"),
        "simple": Tokenizer(vocabulary(), 16, lower_case="simple", pad_id=0),
        "ascii": Tokenizer(vocabulary(), 16, lower_case="ascii"),
        "bpe with bytes": Tokenizer(bpe, 16, lower_case="none", pad_id=0),
    }


def test_the_page_tokenizes_as_the_package(opened, browser, tmp_path):
    """Every option of the tokenizer, with one open page: settings and vocabulary are exchanged beside the towers."""
    opened(example_model())
    for name, tokenizer in tokenizers().items():
        (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_proto)
        settings = json.loads((tmp_path / "preprocessing.json").read_text())
        settings["text"].update(tokenizer.get_config())
        (tmp_path / "preprocessing.json").write_text(json.dumps(settings))
        body = "const fresh = await siglip.load('.'); return arguments[0].map((text) => fresh.tokens(text));"
        found = asynchronous(browser, body, STRINGS)
        for text, ids in zip(STRINGS, found, strict=True):
            assert ids == tokenizer(text).numpy().tolist(), f"{name}: {text!r}"


@pytest.mark.parametrize("method", ["big_vision", "bicubic_antialias", "bilinear_antialias", "NaFlex"])
def test_the_page_embeds_pictures_as_the_package(method, opened, browser, tmp_path):
    if method == "NaFlex":
        model = example_model(max_patches=12)
        model.preprocessing = Preprocessing(NaFlexPreprocessing(16, 12), model.preprocessing.text)
    else:
        model = example_model(method)
    opened(model)
    sizes = ((70, 52), (33, 90), (20, 17))  # smaller and larger than the tower's, both ways
    for i, size in enumerate(sizes):
        data = pictures(2, seed=i, size=size)[1]  # a PNG: decoders of JPEG differ
        (tmp_path / "picture.png").write_bytes(data)
        body = "return [...(await model.image(await (await fetch('picture.png', {cache: 'no-store'})).blob()))];"
        found = asynchronous(browser, body)
        prepared = tf.nest.map_structure(lambda value: value[None], model.preprocessing.image(data))
        np.testing.assert_allclose(found, model.encode_image(prepared)[0], rtol=0, atol=5e-3)
