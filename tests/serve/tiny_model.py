"""A SavedModel of a few operations with signatures like those of an export, and a server for it in a thread."""

import asyncio
import atexit
import contextlib
import functools
import json
import pathlib
import shutil
import tempfile
import threading

import tensorflow as tf

from siglip_tf.serve import ModelServer, Settings

_BYTES = tf.TensorSpec([None], tf.string, name="images")
_TEXTS = tf.TensorSpec([None], tf.string, name="texts")


class TinyModel(tf.Module):
    """`scale` changes every answer, so that versions can be told apart."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = tf.Variable(scale, trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half_plus_two(self, x):
        return {"y": self.scale * (x / 2 + 2)}

    @tf.function(input_signature=[_BYTES])
    def embed_image(self, images):
        """The mean color of each picture."""
        return {"embedding": self.scale * self._colors(images)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="pixels")])
    def embed_image_pixels(self, pixels):
        return {"embedding": tf.reduce_mean(tf.cast(pixels, tf.float32), axis=[1, 2])}

    @tf.function(input_signature=[_TEXTS])
    def embed_text(self, texts):
        return {"length": tf.strings.length(texts), "upper": tf.strings.upper(texts), "raw_bytes": texts}

    @tf.function(input_signature=[_BYTES, _TEXTS])
    def score(self, images, texts):
        check = tf.debugging.assert_none_equal(texts, b"bad", message="This text is bad.")
        with tf.control_dependencies([check]):
            lengths = tf.cast(tf.strings.length(texts), tf.float32)
        return {"logits": tf.reduce_sum(self._colors(images), axis=1)[:, None] + lengths[None]}

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32, name="a"), tf.TensorSpec([None], tf.bool, name="b")])
    def fixed(self, a, b):
        return {"sum": tf.reduce_sum(a), "count": tf.reduce_sum(tf.cast(b, tf.int64))}

    @tf.function(input_signature=[_TEXTS])
    def number(self, texts):
        """The number that each text spells; the error of another text repeats its bytes."""
        return {"number": tf.strings.to_number(texts)}

    def _colors(self, images):
        def color(data):
            pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(tf.reshape(pixels, [-1, 3]), tf.float32), axis=0)

        return tf.map_fn(color, images, fn_output_signature=tf.TensorSpec([3], tf.float32))


def write_version(base: pathlib.Path, number: int, scale: float = 1.0, whole: bool = False) -> pathlib.Path:
    """Writes `base/number/` and returns it: all signatures if `whole`, else the default one, which is quick to load."""
    aside = base / f".{number}"
    shutil.copytree(_saved(scale, whole), aside)
    return aside.rename(base / str(number))


@functools.cache
def _saved(scale: float, whole: bool) -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tiny_model_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = TinyModel(scale)
    names = ["embed_image", "embed_image_pixels", "embed_text", "score", "fixed", "number"] if whole else []
    signatures = {name: getattr(model, name).get_concrete_function() for name in names}
    signatures["serving_default"] = model.half_plus_two.get_concrete_function()
    tf.saved_model.save(model, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    files = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    (folder / "assets.extra" / "siglip_tf_files.json").write_text(json.dumps({"files": files}))
    return folder


@contextlib.contextmanager
def running(models: dict, **settings):
    """A server in a thread of this process, on free ports."""
    server = ModelServer(models, Settings(rest_port=0, grpc_port=0, **{"poll_seconds": 0.05} | settings))
    ready = threading.Event()
    failure: list[BaseException] = []
    state: dict = {}

    async def serve():
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started = asyncio.Event()
        run = asyncio.ensure_future(server.run(state["stop"], started))
        wait = asyncio.ensure_future(started.wait())
        await asyncio.wait({run, wait}, return_when=asyncio.FIRST_COMPLETED)
        wait.cancel()
        if not run.done():  # `target` notes why a start failed, and then sets `ready`
            ready.set()
        await run

    def target():
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    assert ready.wait(60)
    if failure:
        raise failure[0]
    server.url = f"http://127.0.0.1:{server.rest_port}"
    server.stop = lambda: state["loop"].call_soon_threadsafe(state["stop"].set)
    try:
        yield server
    finally:
        if thread.is_alive():
            server.stop()
        thread.join(120)  # twice the time to drain, and more
        assert not thread.is_alive(), "the server did not stop"
        if failure:
            raise failure[0]
