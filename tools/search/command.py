"""Finds pictures in a folder by text or by another picture.

    python -m tools.search index FOLDER --model CHECKPOINT    embed the pictures (later: new and changed ones)
    python -m tools.search query "text or image" [FOLDER]     print the best matches
    python -m tools.search serve [FOLDER]                     open a page on http://localhost:8765
    python -m tools.search export FOLDER FILE                 write id, path, and embedding for other tools
    python -m tools.search import FILE FOLDER --model CHECKPOINT    build an index from another tool's vectors

FILE is Parquet (.parquet), numpy (.npz), or DuckDB (.duckdb). `query` can also search it directly. With `pip install
usearch`, a folder of 50,000 pictures or more gets a graph of neighbors beside the index.

The index is in FOLDER/.siglip_search and stores the name of its checkpoint. FOLDER is the current folder by default. If
`index` is interrupted, it continues where it stopped.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from ..command import command_parser, exit_status
from .exchange import check_model, export_index, import_table
from .index import Index, Towers
from .tables import is_table, read_table


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="embed the pictures of a folder")
    index.add_argument("folder", metavar="FOLDER", type=Path)
    index.add_argument("--batch-size", type=int, default=16, metavar="N", help="pictures per step (default 16)")
    query = commands.add_parser("query", help="print the best matches for a text, or for a picture's file")
    query.add_argument("query", metavar="QUERY", help="a text, or the path of a picture")
    query.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="the folder, or a FILE that export wrote"
    )
    query.add_argument("-n", type=int, default=10, metavar="N", help="number of results (default 10)")
    serve = commands.add_parser("serve", help="open the search page")
    serve.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path())
    serve.add_argument("--port", type=int, default=8765, help="default 8765; 0 for any free one")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")
    export = commands.add_parser("export", help="write the embeddings as Parquet, npz, or DuckDB")
    export.add_argument("folder", metavar="FOLDER", type=Path)
    export.add_argument("file", metavar="FILE", type=Path, help=".parquet, .npz, or .duckdb")
    export.add_argument("--dims", type=int, metavar="N", help="keep the N principal directions of the vectors")
    export.add_argument("--int8", action="store_true", help="store 8 bits per dimension")
    importing = commands.add_parser("import", help="make an index of embeddings from another tool")
    importing.add_argument("file", metavar="FILE", type=Path, help="table with the columns path and embedding")
    importing.add_argument("folder", metavar="FOLDER", type=Path)
    for command in (query, serve):
        command.add_argument(
            "--exact", action="store_true", help="compare with every picture, without the graph of neighbors"
        )
    for command in (index, query, serve, importing):
        command.add_argument("--model", metavar="CHECKPOINT", help="checkpoint (default: the one the index remembers)")
        command.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model, for formats without one")
    options = parser.parse_args(arguments)
    runs = {"index": _index, "query": _query, "serve": _serve, "export": _export, "import": _import}
    run = runs[options.command]
    return exit_status(lambda: run(options))


def _index(options: argparse.Namespace) -> None:
    started = time.monotonic()
    index = Index(options.folder)
    if options.model is None:
        manifest = index.manifest()
        options.model, options.tokenizer = manifest["checkpoint"], options.tokenizer or manifest["tokenizer"]
    towers = _towers(options, options.batch_size)
    checkpoint, tokenizer = _source(options)

    def progress(done: int, total: int) -> None:
        rate = done / (time.monotonic() - started)
        print(f"{done:,} of {total:,} pictures, {rate:.1f} a second, {(total - done) / rate:,.0f} s left", flush=True)

    report = index.update(towers, checkpoint, tokenizer, progress)
    print(f"{report.embedded:,} pictures embedded, {report.kept:,} known before, {report.forgotten:,} gone or changed.")
    for path, why in sorted(report.broken.items()):
        print(f"  cannot be read: {path}: {why}")
    print(f"{len(index.files):,} pictures can be found. Done in {time.monotonic() - started:.1f} s.")


def _source(options: argparse.Namespace) -> tuple[str, str | None]:
    """Returns the checkpoint and the tokenizer as an index stores them."""
    checkpoint = options.model if "://" in options.model else str(Path(options.model).resolve())
    return checkpoint, options.tokenizer and str(Path(options.tokenizer).resolve())


def _export(options: argparse.Namespace) -> None:
    index = Index(options.folder)
    index.manifest()
    count = export_index(index.load(), options.file, options.dims, options.int8)
    print(f"Wrote {count:,} rows of id, path, and embedding to {options.file}.")


def _import(options: argparse.Namespace) -> None:
    if options.model is None:
        options.model = read_table(options.file).model.get("checkpoint")
        if options.model is None:
            raise ValueError(f"{options.file} does not say which model made its vectors: give --model CHECKPOINT.")
    found = import_table(Index(options.folder), options.file, _towers(options), *_source(options))
    print(f"{found.used:,} pictures can be found.")
    if found.elsewhere:
        print(
            f"{len(found.elsewhere):,} rows are of pictures that are not in {options.folder}: {found.elsewhere[0]} ..."
        )


def _query(options: argparse.Namespace) -> None:
    if is_table(options.folder):
        search, names, towers = _open_table(options)
    else:
        index, towers = _open(options)
        search, names = index.search, [str(index.folder / file.path) for file in index.files]
    file = Path(options.query)
    by_picture = _is_file(file)
    vector = towers.image(file.read_bytes()) if by_picture else towers.texts([options.query])[0]
    probability = not by_picture and towers.bias is not None
    print("cosine  match      picture" if probability else "cosine  picture")
    for position, cosine in search(vector, max(1, options.n)):
        match = f"{towers.probability(cosine):<9.2g}  " if probability else ""
        print(f"{cosine:6.3f}  {match}{names[position]}")
    if probability:
        print(
            "match: the probability that picture and text belong together, each pair judged alone; small numbers are "
            "usual, the order and the ratios count.",
            file=sys.stderr,
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the text is too long for a file name
        return False


def _serve(options: argparse.Namespace) -> None:
    from .server import SearchServer

    index, towers = _open(options)
    towers.texts(["warm up"])
    with SearchServer(index, towers, options.host, options.port) as server:
        host = str(server.server_address[0])
        shown = "localhost" if host == "127.0.0.1" else host
        print(
            f"{len(index.files):,} pictures at http://{shown}:{server.server_address[1]} - stop with Ctrl-C", flush=True
        )
        if not server.checks_host:
            print("Anyone who reaches this address can see all indexed pictures.", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _open_table(options: argparse.Namespace) -> tuple[Callable, list[str], Towers]:
    table = read_table(options.folder)
    options.model = options.model or table.model.get("checkpoint")
    options.tokenizer = options.tokenizer or table.model.get("tokenizer") or None
    if options.model is None:
        raise ValueError(f"{options.folder} does not say which model made its vectors: give --model CHECKPOINT.")
    towers = _towers(options)
    check_model(table, options.folder, towers)
    return table.search, table.paths, towers


def _open(options: argparse.Namespace) -> tuple[Index, Towers]:
    index = Index(options.folder)
    manifest = index.manifest()
    options.model = options.model or manifest["checkpoint"]
    options.tokenizer = options.tokenizer or manifest["tokenizer"]
    towers = _towers(options)
    index.check_model(towers)
    index.load()
    if not options.exact:
        index.use_graph()
    return index, towers


def _towers(options: argparse.Namespace, batch_size: int = 16) -> Towers:
    import siglip_tf

    model = siglip_tf.SigLIP.from_checkpoint(options.model, tokenizer=options.tokenizer, verbose=False)
    return Towers(model, batch_size)
