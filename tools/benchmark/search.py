"""Times a query over many pictures: a graph of neighbors (usearch) against one matrix product, and its recall.

python -m tools.benchmark search [--pictures 1000000] [--dim 768] [--queries 50] [--graph FILE]
python -m tools.benchmark search --compression [--table FILE]

The vectors are random mixtures of a few directions with noise. Uniform noise (which has no near neighbors) or separate
clusters would not be realistic. Both searches answer the same queries in turn. `--graph` keeps the graph for another
run, because building it takes minutes for a million vectors.

`--compression` measures smaller vectors instead: the bytes per vector, and how many of the ten nearest vectors are
among the ten, and the forty, nearest smaller vectors. Its random vectors have a spectrum that decreases like 1/i, so
that every dimension matters. `--table` measures your own vectors (Parquet, npz, or DuckDB of `tools.search export`).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ..search.compression import Compression
from ..search.neighbors import Neighbors
from ..search.tables import read_table

_LATENT = 48
_DRAWN_AT_ONCE = 50_000
_COMPRESSED = 10_000  # the largest number of random vectors for `--compression`


def drawn(count: int, dim: int, seed: int) -> np.ndarray:
    """Returns random unit vectors, float32 (count, dim), that have near and far neighbors."""
    directions = np.random.default_rng(0).standard_normal((_LATENT, dim), np.float32)
    rng = np.random.default_rng(seed)
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, _DRAWN_AT_ONCE):
        part = vectors[start : start + _DRAWN_AT_ONCE]
        mixture = rng.standard_normal((len(part), _LATENT), np.float32) ** 3
        np.matmul(mixture, directions, out=part)
        part += (
            0.5 * np.linalg.norm(part, axis=1, keepdims=True) / dim**0.5 * rng.standard_normal(part.shape, np.float32)
        )
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def measure(pictures: int, dim: int, queries: int, count: int, path: Path) -> dict[str, float]:
    """Returns times in seconds and the recall. Prints the progress while the graph is built."""
    vectors, asked = drawn(pictures, dim, seed=1), drawn(queries, dim, seed=2)
    graph = Neighbors(path, dim)
    start = time.perf_counter()

    def progress(done, total):
        seconds = time.perf_counter() - start
        left = seconds / done * (total - done)
        print(f"\rgraph: {done:,} of {total:,} vectors, {left / 60:.1f} min left ", end="", flush=True)

    made = graph.follow(range(pictures), vectors, progress)
    found = {"graph made of": made, "graph making": time.perf_counter() - start}
    print()
    times: dict[str, list[float]] = {"product": [], "graph": []}
    recalls = []
    for query in asked:
        began = time.perf_counter()
        scores = vectors @ query
        exact = np.argpartition(-scores, count - 1)[:count]
        times["product"].append(time.perf_counter() - began)
        began = time.perf_counter()
        keys = np.array(graph.search(query, 2 * count))
        near = keys[np.argsort(-(vectors[keys] @ query))[:count]]
        times["graph"].append(time.perf_counter() - began)
        recalls.append(len(np.intersect1d(near, exact)) / count)
    found |= {name: statistics.median(seconds) for name, seconds in times.items()}
    return found | {"recall": statistics.mean(recalls), "graph bytes": path.stat().st_size}


def falling(count: int, dim: int, seed: int) -> np.ndarray:
    """Returns random unit vectors, float32 (count, dim), whose variance decreases like 1/i along rotated axes."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))
    vectors = rng.standard_normal((count, dim)) / np.sqrt(np.arange(1, dim + 1)) @ turned
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def compressions(vectors: np.ndarray) -> dict[str, Compression]:
    """Returns the compressions to measure, by name."""
    width = vectors.shape[1]
    kept = [width // share for share in (2, 3, 6)]
    choices = {"float32": Compression(), "int8": Compression(int8=True)}
    choices |= {f"first {dims}": Compression.cut(width, dims) for dims in kept}
    # The directions for fewer dimensions are the first directions for more dimensions.
    directions = Compression.fitted(vectors, kept[0]).projection
    choices |= {f"principal {dims}": Compression(directions[:, :dims]) for dims in kept}
    return choices | {f"principal {dims}, int8": Compression(directions[:, :dims], int8=True) for dims in kept}


def recalls(vectors: np.ndarray, queries: np.ndarray, compression: Compression, count: int) -> tuple[float, float]:
    """Returns the fraction of the `count` nearest vectors among the `count` and the 4 `count` nearest small vectors."""
    codes, scales = compression.encode(vectors)
    small = codes.astype(np.float32) if scales is None else codes * scales[:, None]
    found: dict[int, list[float]] = {1: [], 4: []}
    for query in queries:
        exact = np.argpartition(-(vectors @ query), count - 1)[:count]
        order = np.argsort(-(small @ compression.query(query)), kind="stable")
        for times, shares in found.items():
            shares.append(len(np.intersect1d(order[: times * count], exact)) / count)
    return statistics.mean(found[1]), statistics.mean(found[4])


def _print_compression(options: argparse.Namespace) -> None:
    if options.table is not None:
        vectors = read_table(options.table).vectors
        if len(vectors) < 2 * options.queries:
            raise SystemExit(f"Expected at least {2 * options.queries} vectors. Received: {len(vectors)}.")
        chosen = np.random.default_rng(0).permutation(len(vectors))
        asked, vectors = vectors[chosen[: options.queries]], vectors[chosen[options.queries :]]
    else:
        vectors = falling(min(options.pictures, _COMPRESSED), options.dim, seed=1)
        asked = falling(options.queries, options.dim, seed=2)
    width, count = vectors.shape[1], options.count
    print(f"{len(vectors):,} vectors of {width}, {len(asked)} queries")
    print(f"{'':20} {'bytes':>6} {f'recall@{count}':>10} {f'in best {4 * count}':>12}")
    for name, compression in compressions(vectors).items():
        same, wider = recalls(vectors, asked, compression, count)
        print(f"{name:20} {compression.bytes_of(width):6} {100 * same:9.1f}% {100 * wider:11.1f}%", flush=True)


def main(arguments: list[str]) -> None:
    """Runs the benchmark and prints its results."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768, help="embedding size (768)")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--count", type=int, default=10, help="results per query (10)")
    parser.add_argument("--graph", type=Path, help="file to store the graph in")
    parser.add_argument("--compression", action="store_true", help="measure smaller vectors instead")
    parser.add_argument("--table", type=Path, metavar="FILE", help="with --compression: a file with your own vectors")
    options = parser.parse_args(arguments)
    if options.compression:
        _print_compression(options)
        return
    if options.table is not None:
        parser.error("--table belongs to --compression.")
    with tempfile.TemporaryDirectory() as folder:
        path = options.graph or Path(folder) / "graph"
        found = measure(options.pictures, options.dim, options.queries, options.count, path)
    print(
        f"{options.pictures:,} vectors of {options.dim}, {options.count} results, medians of {options.queries} queries"
    )
    print(f"  matrix product      {1e3 * found['product']:9.2f} ms per query, all float32 vectors read")
    print(
        f"  graph (usearch)     {1e3 * found['graph']:9.2f} ms per query, "
        f"{found['product'] / found['graph']:.0f}x faster"
    )
    print(f"  of the exact results the graph finds {100 * found['recall']:.1f} %")
    if found["graph made of"]:
        print(f"  making the graph    {found['graph making']:9.1f} s, {found['graph bytes'] / 2**30:.2f} GiB")
