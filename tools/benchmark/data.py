"""Times the input path: preprocessing against JPEG decoding alone, whole loaders against torch's, stored embeddings.

python -m tools.benchmark data [--cores 2] [--rounds 9] [--size 224]
python -m tools.benchmark data --only preprocessing

The images are generated and resemble photographs. Half of them have 375 x 500 pixels, and half have 768 x 1024. All
candidates run in one process and are timed in turn, round after round. Each starts when the previous one has filled
its buffers. A ratio is the median of the rounds' ratios, so that other load on the machine affects both sides. "CPU"
is processor time, which other programs affect less than the clock. The pipelines end with a batch of uint8 pixels,
which the model normalizes. Other libraries are left out if they are not installed: `pip install torch webdataset`.
"""

import argparse
import importlib.util
import io
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# TensorFlow reads this variable when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

SHAPES = ((375, 500), (768, 1024))
SECTIONS = ("preprocessing", "loaders", "embeddings", "service")
_BATCH = 64
_WARM_UP = 2
# The largest number of batches that a loader keeps ready.
_AHEAD = 6


def photograph(height: int, width: int, seed: int) -> bytes:
    """Returns a JPEG of quality 90 whose spectrum decreases like a photograph's."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for level in range(1, 9):
        cells = (max(height >> level, 1), max(width >> level, 1), 3)
        coarse = Image.fromarray(rng.integers(0, 256, cells, np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        pixels += (np.asarray(coarse, np.float64) - 128) * 0.12 * 1.25**level / 2
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


class Candidate:
    """A source of batches that is measured several times. Each measurement continues where the last one stopped.

    Args:
        name: the name in the table.
        batches: an endless iterator.
        batch: number of items per batch.
        warm_up: number of batches to skip before each measurement, at least as many as are kept ready.
    """

    def __init__(self, name: str, batches: Iterator, batch: int, warm_up: int = _WARM_UP):
        self.name = name
        self._batches = batches
        self._batch = batch
        self._warm_up = warm_up
        self.rates: list[float] = []
        self.cpu: list[float] = []

    def measure(self, batches: int) -> None:
        """Measures one round: items per second, and seconds of processor time per item."""
        for _ in range(self._warm_up):
            next(self._batches)
        cpu, clock = time.process_time(), time.perf_counter()
        for _ in range(batches):
            next(self._batches)
        items = batches * self._batch
        self.rates.append(items / (time.perf_counter() - clock))
        self.cpu.append((time.process_time() - cpu) / items)


def _settle() -> None:
    """Waits until this process and its children have filled the buffers of the last candidate, at most 10 s."""

    def used() -> float:
        total = time.process_time()
        for child in multiprocessing.active_children():
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    before = used()
    for _ in range(50):
        time.sleep(0.2)
        now = used()
        if now - before < 0.03:
            return
        before = now


def run(candidates: list[Candidate], rounds: int, batches: int, unit: str) -> None:
    """Measures all candidates in turn, and prints a table with ratios to the first."""
    for number in range(rounds + 1):
        for candidate in candidates:
            _settle()
            candidate.measure(batches)
            if number == 0:  # the first round includes tracing, caches, and the start of worker processes
                candidate.rates.clear()
                candidate.cpu.clear()
        print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr)
    first = candidates[0]
    print(f"{'':44}{unit + '/s':>12}{'ratio':>8}{'CPU ms':>9}{'ratio':>8}")
    for candidate in candidates:
        ratio = statistics.median(r / f for r, f in zip(candidate.rates, first.rates, strict=True))
        cpu_ratio = statistics.median(f / c for c, f in zip(candidate.cpu, first.cpu, strict=True))
        cpu = f"{statistics.median(candidate.cpu) * 1e3:9.3f}{cpu_ratio:8.2f}"
        in_process = not candidate.name.startswith("torch")
        rate = statistics.median(candidate.rates)
        print(f"{candidate.name:44}{rate:12,.0f}{ratio:8.2f}{cpu if in_process else '':17}")
    print()


def _from_memory(images: list[bytes], process: Callable, cores: int) -> Iterator:
    """Yields batches with one number per image. The whole image is computed, but nothing is copied afterward."""
    import tensorflow as tf

    @tf.autograph.experimental.do_not_convert
    def one(data: tf.Tensor) -> tf.Tensor:
        return tf.cast(process(data)[0, 0, 0], tf.float32)

    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    options.autotune.enabled = False
    # Prefetched batches would be computed during another candidate's turn, so disable prefetching and fusion.
    options.experimental_optimization.apply_default_optimizations = False
    dataset = tf.data.Dataset.from_tensor_slices(images).repeat()
    return iter(dataset.map(one, num_parallel_calls=cores).batch(_BATCH).with_options(options))


def preprocessing(images: list[bytes], size: int, cores: int) -> list[Candidate]:
    """Returns candidates for decoding alone, then for each way to compute (size, size, 3) pixels."""
    import tensorflow as tf

    from siglip_tf.data import ImagePreprocessing

    def by_tensorflow(data: tf.Tensor) -> tf.Tensor:
        pixels = tf.io.decode_jpeg(data, channels=3)
        return tf.image.resize(pixels, (size, size), "bicubic", antialias=True)

    def fused(**options: Any) -> Callable:
        image = ImagePreprocessing(size, **options)
        return lambda data: image.pixels(data, fused=True)

    bicubic, scaled = {"method": "bicubic_antialias"}, {"method": "bicubic_antialias", "scaled_decoding": True}
    ways = {
        "decode alone (tf.io.decode_jpeg)": lambda data: tf.io.decode_jpeg(data, channels=3),
        "big_vision (bilinear)": fused(),
        "bicubic_antialias, exact": fused(**bicubic),
        "bicubic_antialias, scaled decoding": fused(**scaled),
        "big_vision, TensorFlow's operations": ImagePreprocessing(size).pixels,
        "bicubic exact, TensorFlow's operations": ImagePreprocessing(size, **bicubic).pixels,
        "bicubic scaled, TensorFlow's operations": ImagePreprocessing(size, **scaled).pixels,
        "tf.image.resize bicubic, antialias": by_tensorflow,
    }
    return [Candidate(name, _from_memory(images, way, cores), _BATCH) for name, way in ways.items()]


def _captions(count: int) -> list[str]:
    things = ("a dog on the beach", "two cups of coffee", "an old stone bridge", "mountains at sunrise")
    return [f"a photo of {things[i % 4]}, number {i}" for i in range(count)]


def _torch_loader(shard: str, size: int, cores: int) -> Iterator:
    """Returns a usual torch loader: webdataset, Pillow, bicubic, batches of floats, and a worker process per core."""
    import torch
    import webdataset
    from PIL import Image

    def image(sample: dict) -> torch.Tensor:
        picture = Image.open(io.BytesIO(sample["jpg"])).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0

    dataset = webdataset.WebDataset(
        shard, resampled=True, shardshuffle=False, nodesplitter=None, workersplitter=None, empty_check=False
    )
    loader = torch.utils.data.DataLoader(
        dataset.map(image), batch_size=_BATCH, num_workers=cores, multiprocessing_context="fork"
    )
    return iter(loader)


def loaders(images: list[bytes], folder: Path, size: int, cores: int) -> list[Candidate]:
    """Returns candidates from a tar shard to training batches. Those of siglip_tf include captions as token ids."""
    import tensorflow as tf

    from siglip_tf.data import ImagePreprocessing, Preprocessing, Tokenizer
    from siglip_tf.data.pipeline import TrainingData
    from siglip_tf.data.sources.shards.tar import TarSource
    from siglip_tf.data.text.training import train_tokenizer

    shard = folder / "00000.tar"
    write_tar(shard, images)
    candidates: list[Any] = []
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "webdataset"))
    tokenizer = Tokenizer(train_tokenizer(_captions(200), 100), length=16)
    for name, options in (
        ("siglip_tf, big_vision", {}),
        ("siglip_tf, bicubic exact", {"method": "bicubic_antialias"}),
        ("siglip_tf, bicubic scaled decoding", {"method": "bicubic_antialias", "scaled_decoding": True}),
    ):
        owned = Preprocessing(ImagePreprocessing(size, **options), tokenizer)
        data = TrainingData(TarSource(str(shard), verbose=False), owned, _BATCH, parallel_calls=cores)
        batches = data.dataset()
        if not candidates:
            count = sum(spec.dtype.size * spec.shape.num_elements() for spec in batches.element_spec.values())
            pixels = batches.element_spec["image"].shape.num_elements()
            print(f"A batch of {_BATCH} pairs: {count:,} bytes; float32 pixels would make it {count + 3 * pixels:,}.")
        limits = tf.data.Options()
        limits.threading.private_threadpool_size = cores
        candidates.append(Candidate(name, iter(batches.with_options(limits)), _BATCH, _AHEAD))
    if has_torch:
        batches = _torch_loader(str(shard), size, cores)
        candidates.append(Candidate("torch, webdataset, Pillow bicubic", batches, _BATCH, max(_AHEAD, 3 * cores)))
    else:
        print("torch or webdataset is not installed: no rival loader.")
    return candidates


def write_tar(path: Path, images: list[bytes]) -> None:
    """Writes a tar shard of the images, each with a caption."""
    import tarfile

    with tarfile.open(path, "w") as tar:
        for number, (image, caption) in enumerate(zip(images, _captions(len(images)), strict=True)):
            for extension, content in (("jpg", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def embeddings(folder: Path, dim: int = 768, length: int = 16, batch: int = 4096) -> list[Candidate]:
    """Returns candidates from stored embeddings to training batches in each dtype, with 8 shards of 16,384 images."""
    from siglip_tf.data import EmbeddingData, StoredEmbeddings
    from siglip_tf.data.embeddings.stored import DTYPES, VERSION, shard_name, write_shard

    rng = np.random.default_rng(0)
    records, count = 16_384, 8
    candidates = []
    for dtype in ("float16", "bfloat16", "float32"):
        own = folder / dtype
        own.mkdir()
        for number in range(count):
            arrays = {
                "image_embedding": rng.standard_normal((records, dim), np.float32).astype(DTYPES[dtype]),
                "text": rng.integers(0, 32_000, (records, length), np.int32),
                "first_text": np.arange(records + 1, dtype=np.int64),
                "record": np.arange(records, dtype=np.int64) + number * records,
            }
            write_shard(str(own / shard_name(number, count)), arrays, {})
        shards = [{"file": shard_name(n, count), "images": records, "texts": records} for n in range(count)]
        manifest = {"version": VERSION, "tower": "random", "preprocessing": {"text": {"length": length}}}
        manifest |= {"embed_dim": dim, "dtype": dtype, "shards": shards}
        (own / "manifest.json").write_text(json.dumps(manifest))
        data = EmbeddingData(StoredEmbeddings(own), batch)
        candidates.append(Candidate(f"EmbeddingData, {dtype}, {dim} + {length} tokens", iter(data.dataset()), batch))
    return candidates


def main(argv: list[str] | None = None) -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cores", type=int, default=2, help="processor cores to run on (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="times each candidate is measured (%(default)s)")
    parser.add_argument("--images", type=int, default=64, help="number of different images (%(default)s)")
    parser.add_argument("--batches", type=int, default=12, help=f"batches of {_BATCH} images per round (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the result in pixels (%(default)s)")
    parser.add_argument("--only", choices=SECTIONS, help="run one part of the benchmark")
    arguments = parser.parse_args(argv)
    available = sorted(os.sched_getaffinity(0))
    if not 1 <= arguments.cores <= len(available):
        parser.error(f"--cores must lie between 1 and {len(available)}.")
    # Set this before TensorFlow starts its threads, which inherit it.
    os.sched_setaffinity(0, available[: arguments.cores])
    wanted = (arguments.only,) if arguments.only else SECTIONS
    images = [photograph(*SHAPES[i % 2], i) for i in range(arguments.images)] if wanted != ("embeddings",) else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = (arguments.size, arguments.cores)
        if "loaders" in wanted:  # start its worker processes by fork before TensorFlow is busy
            rivals = loaders(images, folder, *common)
        if images:
            kilobytes = [sum(len(image) for image in images[i::2]) / len(images[i::2]) / 1e3 for i in (0, 1)]
            sizes = " and ".join(f"{h} x {w} ({k:.0f} kB)" for (h, w), k in zip(SHAPES, kilobytes, strict=True))
            print(f"{arguments.cores} cores, {arguments.rounds} rounds; JPEGs of {sizes}\n")
        if "preprocessing" in wanted:
            print(f"JPEG bytes in memory to pixels, {arguments.size} x {arguments.size}")
            run(preprocessing(images, *common), arguments.rounds, arguments.batches, "images")
        if "loaders" in wanted:
            print("Tar shard to shuffled training batches")
            run(rivals, arguments.rounds, arguments.batches, "images")
        if "embeddings" in wanted:
            print("Stored embeddings to shuffled training batches")
            run(embeddings(folder), arguments.rounds, 10, "pairs")
        if "service" in wanted:
            from . import input_service

            print("Tar shard to training batches, in this process and through the input service")
            (folder / "service").mkdir()
            with input_service.candidates(images, folder / "service", arguments.cores) as both:
                run(both, arguments.rounds, arguments.batches, "images")


if __name__ == "__main__":
    main()
