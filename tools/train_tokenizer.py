"""Trains a SentencePiece tokenizer on text files, with the special ids of SigLIP's tokenizer.

    python -m tools.train_tokenizer captions.jsonl more.csv.gz --field caption --vocab-size 32000 --output my.model

Files are streamed. They contain one text per line (.txt), or fields of .jsonl, .csv, and .tsv files. Each may also be
compressed (.gz) or remote (gs://).
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from siglip_tf.data.text.tokenizer import Tokenizer
from siglip_tf.data.text.training import ID_LAYOUTS, MODEL_TYPES, TextFiles, train_tokenizer
from siglip_tf.storage import write_file

_SAMPLE = 2_000
_SECONDS_BETWEEN_LINES = 2.0


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m tools.train_tokenizer",
        description="Train a SentencePiece tokenizer on text files, with the ids of SigLIP's.",
    )
    arguments.add_argument(
        "files", nargs="+", help=".txt (one text per line), .jsonl, .csv, or .tsv; each may end in .gz"
    )
    arguments.add_argument("--output", type=Path, default=Path("tokenizer.model"), help="file to write (%(default)s)")
    arguments.add_argument(
        "--field", action="append", help="JSONL key or CSV column; may be given several times (caption)"
    )
    arguments.add_argument("--vocab-size", type=int, default=32_000, help="largest number of pieces (%(default)s)")
    arguments.add_argument("--max-texts", type=int, help="train on a random sample of N texts (all)")
    arguments.add_argument(
        "--layout", choices=tuple(ID_LAYOUTS), default="siglip", help="layout of the special ids (%(default)s)"
    )
    arguments.add_argument(
        "--model-type",
        choices=MODEL_TYPES,
        default="unigram",
        help="type of the model; bpe suits small vocabularies (%(default)s)",
    )
    arguments.add_argument("--coverage", type=float, default=0.9999, help="share of characters to keep (%(default)s)")
    arguments.add_argument("--byte-fallback", action="store_true", help="spell unknown characters as bytes")
    arguments.add_argument("--keep-case", action="store_true", help="do not lower-case the texts first")
    arguments.add_argument(
        "--length", type=int, default=64, help="tokens per text, for the figures shown (%(default)s)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="seed of the random sample (%(default)s)")
    return arguments


class _Progress:
    """Passes texts on, keeps the first ones as a sample, and prints the progress every two seconds."""

    def __init__(self, files: TextFiles):
        self.sample: list[str] = []
        self._files = files
        self._started = self._said = time.monotonic()

    def __iter__(self) -> Iterator[str]:
        for text in self._files:
            if len(self.sample) < _SAMPLE:
                self.sample.append(text)
            if time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
                self._say()
            yield text
        self._say()
        print("Training; SentencePiece shows no progress of its own ...", file=sys.stderr, flush=True)

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = self._files.texts / max(self._said - self._started, 1e-9)
        print(
            f"Read {self._files.texts:,} texts, {self._files.bytes_read / 1e6:,.1f} MB, {rate:,.0f} texts/s",
            file=sys.stderr,
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = parser().parse_args(argv)
    started = time.monotonic()
    try:
        files = TextFiles(arguments.files, arguments.field or ["caption"])
        progress = _Progress(files)
        model = train_tokenizer(
            progress,
            arguments.vocab_size,
            lower_case=not arguments.keep_case,
            layout=arguments.layout,
            model_type=arguments.model_type,
            character_coverage=arguments.coverage,
            byte_fallback=arguments.byte_fallback,
            max_texts=arguments.max_texts,
            seed=arguments.seed,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_file(arguments.output, model)

    pad_id = 1 if arguments.layout == "siglip" else 0
    tokenizer = Tokenizer(model, arguments.length, lower_case=not arguments.keep_case, pad_id=pad_id)
    counts = tokenizer.token_counts(progress.sample).numpy()
    skipped = ", ".join(f"{count:,} {cause}" for cause, count in sorted(files.skipped.items())) or "none"
    print(f"{arguments.output}: {tokenizer.vocab_size:,} pieces, {time.monotonic() - started:.1f} s")
    print(f"texts read {files.texts:,}; left out: {skipped}")
    print(
        f"tokens per text, EOS included: mean {counts.mean():.1f}, largest {counts.max()}, "
        f"over {arguments.length}: {(counts > arguments.length).mean():.2%} (first {len(counts):,} texts)"
    )
    print(f"Tokenizer.from_file({str(arguments.output)!r}, length={arguments.length}, pad_id={pad_id})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
