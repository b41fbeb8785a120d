"""Finds pictures in a folder by text or by another picture.

    python -m tools.search index FOLDER --model CHECKPOINT    embed the pictures (again: what is new or changed)
    python -m tools.search query "text or image" [FOLDER]     print the best matches
    python -m tools.search serve [FOLDER]                     open a page on http://localhost:8765

With `pip install usearch`, folders of 50,000 pictures and more get a graph of neighbours beside the index.

The index lies in FOLDER/.siglip_search and remembers its checkpoint; FOLDER is the current one if not given. A killed
`index` continues where it was.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from .command import command_parser, exit_status
from .search_index import Index, Towers


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = command_parser("search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="embed the pictures of a folder")
    index.add_argument("folder", metavar="FOLDER", type=Path)
    index.add_argument("--batch-size", type=int, default=16, metavar="N", help="pictures a step (default 16)")
    query = commands.add_parser("query", help="print the best matches for a text, or for a picture's file")
    query.add_argument("query", metavar="QUERY", help="a text, or the path of a picture")
    query.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path())
    query.add_argument("-n", type=int, default=10, metavar="N", help="how many (default 10)")
    serve = commands.add_parser("serve", help="open the search page")
    serve.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=Path())
    serve.add_argument("--port", type=int, default=8765, help="default 8765; 0 for any free one")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; this machine only by default")
    for command in (query, serve):
        command.add_argument("--exact", action="store_true", help="compare with every picture, however many there are")
    for command in (index, query, serve):
        command.add_argument("--model", metavar="CHECKPOINT", help="checkpoint (default: the one the index remembers)")
        command.add_argument("--tokenizer", metavar="FILE", help="SentencePiece model for formats that carry none")
    options = parser.parse_args(arguments)
    run = {"index": _index, "query": _query, "serve": _serve}[options.command]
    return exit_status(lambda: run(options))


def _index(options: argparse.Namespace) -> None:
    started = time.monotonic()
    index = Index(options.folder)
    if options.model is None:
        manifest = index.manifest()
        options.model, options.tokenizer = manifest["checkpoint"], options.tokenizer or manifest["tokenizer"]
    towers = _towers(options, options.batch_size)

    def progress(done: int, total: int) -> None:
        rate = done / (time.monotonic() - started)
        print(f"{done:,} of {total:,} pictures, {rate:.1f} a second, {(total - done) / rate:,.0f} s left", flush=True)

    checkpoint = options.model if "://" in options.model else str(Path(options.model).resolve())
    tokenizer = options.tokenizer and str(Path(options.tokenizer).resolve())
    report = index.update(towers, checkpoint, tokenizer, progress)
    print(f"{report.embedded:,} pictures embedded, {report.kept:,} known before, {report.forgotten:,} gone or changed.")
    for path, why in sorted(report.broken.items()):
        print(f"  cannot be read: {path}: {why}")
    print(f"{len(index.files):,} pictures can be found. Done in {time.monotonic() - started:.1f} s.")


def _query(options: argparse.Namespace) -> None:
    index, towers = _open(options)
    file = Path(options.query)
    by_picture = _is_file(file)
    vector = towers.image(file.read_bytes()) if by_picture else towers.texts([options.query])[0]
    probability = not by_picture and towers.bias is not None
    print("cosine  match      picture" if probability else "cosine  picture")
    for position, cosine in index.search(vector, max(1, options.n)):
        match = f"{towers.probability(cosine):<9.2g}  " if probability else ""
        print(f"{cosine:6.3f}  {match}{index.folder / index.files[position].path}")
    if probability:
        print(
            "match: the probability that picture and text belong together, each pair judged alone; small numbers are "
            "usual, the order and the ratios count.",
            file=sys.stderr,
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text too long for a file name
        return False


def _serve(options: argparse.Namespace) -> None:
    from .search_server import SearchServer

    index, towers = _open(options)
    towers.texts(["warm up"])
    with SearchServer(index, towers, options.host, options.port) as server:
        host, port = server.server_address[:2]
        shown = "localhost" if host == "127.0.0.1" else host
        print(f"{len(index.files):,} pictures at http://{shown}:{port} - stop with Ctrl-C", flush=True)
        if not server.checks_host:
            print("Anyone who reaches this address can see all indexed pictures.", file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


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


if __name__ == "__main__":
    sys.exit(main())
