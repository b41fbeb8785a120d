"""A query over many pictures: the graph of neighbours (usearch) beside one matrix product, and what it still finds.

python -m tools.benchmark search [--pictures 1000000] [--dim 768] [--queries 50] [--graph FILE]

The vectors are drawn: mixtures of a few directions with noise on top, as neither uniform noise (no neighbours at all)
nor separate clusters would be fair. Both searches answer the same queries in turn. `--graph` keeps the graph, whose
making takes minutes at a million, for another run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ..search_neighbours import Neighbours

_LATENT = 48
_DRAWN_AT_ONCE = 50_000


def drawn(count: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors (count, dim), float32, that have near and far neighbours."""
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
    """Seconds and recall; prints how far the graph is while it is made."""
    vectors, asked = drawn(pictures, dim, seed=1), drawn(queries, dim, seed=2)
    graph = Neighbours(path, dim)
    start = time.perf_counter()

    def progress(done, total):
        seconds = time.perf_counter() - start
        left = seconds / done * (total - done)
        print(f"\rgraph: {done:,} of {total:,} vectors, {left / 60:.1f} min left ", end="", flush=True)

    made = graph.follow(range(pictures), vectors, progress)
    found = {"graph made of": made, "graph making": time.perf_counter() - start}
    print()
    times, recalls = {"product": [], "graph": []}, []
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


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768, help="numbers in a vector (768)")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--count", type=int, default=10, help="results a query (10)")
    parser.add_argument("--graph", type=Path, help="file that keeps the graph")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = options.graph or Path(folder) / "graph"
        found = measure(options.pictures, options.dim, options.queries, options.count, path)
    print(
        f"{options.pictures:,} vectors of {options.dim}, {options.count} results, medians of {options.queries} queries"
    )
    print(f"  matrix product      {1e3 * found['product']:9.2f} ms a query, all float32 vectors read")
    print(
        f"  graph (usearch)     {1e3 * found['graph']:9.2f} ms a query, {found['product'] / found['graph']:.0f}x faster"
    )
    print(f"  of the exact results the graph finds {100 * found['recall']:.1f} %")
    if found["graph made of"]:
        print(f"  making the graph    {found['graph making']:9.1f} s, {found['graph bytes'] / 2**30:.2f} GiB")
