"""Members of a tar shard as samples: grouped by key as the webdataset library groups them.

A member's key is its name up to the first dot after the last slash. The rest, in lower case, is its extension. The
members of a sample are neighbors with the same key, and a repeated extension begins the next sample. The picture of a
sample is the member whose whole extension is an image's: `0001.png`, and not `0001.mask.png` beside it.

Names with more dots give several pictures the same key (`IMG.01.png`, `IMG.02.png`). Each of them that has a text of
the same name is a record of its own. Any other is a broken record, so that every picture is counted.

Source: https://github.com/webdataset/webdataset (`base_plus_ext`, `group_by_keys`)
"""

import dataclasses
import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
_TEXTS = ("txt", "json")
_BLOCK = tarfile.BLOCKSIZE

Place = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Record:
    """A picture and its other members, as offsets and lengths in the shard; (0, 0) means that there is none."""

    key: str
    image: Place
    members: dict[str, Place]
    problem: str = ""


def read_members(file: Any) -> tuple[list[tuple[str, Place]], bool]:
    """Returns the names and places of the files in a shard, and whether the shard is torn."""
    if (plain := plain_members(file)) is not None:
        return plain, False
    members: list[tuple[str, Place]] = []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    members.append((member.name, (member.offset_data, member.size)))
            file.seek(tar.offset)
            # A whole archive ends with blocks of zeros. In a torn archive, reading stopped at something else.
            return members, file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError):
        # An empty file is not torn.
        file.seek(0)
        return members, bool(file.read(1))


def plain_members(file: Any) -> list[tuple[str, Place]] | None:
    """Returns the names and places of the files in a whole, ordinary shard, or None to leave the shard to `tarfile`.

    `tarfile` takes 50 us per member, as long as decoding a small image, and training waits while shards of tens of
    thousands of members are indexed.
    """
    members: list[tuple[str, Place]] = []
    size = file.seek(0, io.SEEK_END)
    offset, long_name = 0, None
    try:
        while True:
            file.seek(offset)
            header = file.read(_BLOCK)
            if header == bytes(_BLOCK):
                return members
            kind = header[156:157]
            checksum = sum(header) - sum(header[148:156]) + 256
            if len(header) < _BLOCK or checksum != _octal(header[148:156]) or kind not in b"\x000x5L":
                return None
            length = _octal(header[124:136])
            start = offset + _BLOCK
            offset = start + -(-length // _BLOCK) * _BLOCK
            if offset > size:
                return None
            if kind == b"x":
                long_name = _pax_name(file.read(length), long_name)
                continue
            if kind == b"L":
                long_name = file.read(length).rstrip(b"\0")
                continue
            name = header[:100].partition(b"\0")[0]
            if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
                name = prefix + b"/" + name
            name, long_name = long_name or name, None
            if kind == b"5":
                continue
            if name.endswith(b"/"):
                return None
            members.append((name.decode("utf-8", "surrogateescape"), (start, length)))
    except ValueError:
        return None


def _octal(field: bytes) -> int:
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def _pax_name(content: bytes, name: bytes | None) -> bytes | None:
    """Returns the path in a PAX header, or `name` if it holds no path.

    Raises:
        ValueError: the header holds something else that affects where the file is.
    """
    while content:
        length, _, rest = content.partition(b" ")
        record = rest[: int(length) - len(length) - 1]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or key not in (b"path", b"mtime", b"atime", b"ctime"):
            raise ValueError(key)
        name = value[:-1] if key == b"path" else name
        content = content[int(length) :]
    return name


def base_and_extension(name: str) -> tuple[str, str] | None:
    """Returns the key and the extension of a member, or None without an extension or for webdataset's own names."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not stem or not dot or (stem.startswith("__") and stem.endswith("__")):
        return None
    return folder + slash + stem, extension.lower()


def grouped(members: Sequence[tuple[str, Place]]) -> list[tuple[str, dict[str, Place]]]:
    """Returns the key of each sample and its members by extension."""
    samples: list[tuple[str, dict[str, Place]]] = []
    for name, place in members:
        found = base_and_extension(name)
        if found is None:
            continue
        key, extension = found
        if not samples or samples[-1][0] != key or extension in samples[-1][1]:
            samples.append((key, {}))
        samples[-1][1][extension] = place
    return samples


def count_records(file: Any) -> int:
    """Counts the records of a shard. A torn shard has one more, because the tear counts as a broken record."""
    members, torn = read_members(file)
    return sum(1 for key, sample in grouped(members) for _ in records_of(key, sample, IMAGES)) + torn


def records_of(key: str, members: dict[str, Place], images: Sequence[str]) -> Iterator[Record]:
    """Yields the records of a sample: its main picture, and each picture that has a text of its own.

    Args:
        key: the key of the sample.
        members: places of the members by extension.
        images: extensions of pictures, the best first.
    """
    exact = next((members[extension] for extension in images if extension in members), None)
    pictures = [extension for extension in members if extension.rpartition(".")[2] in images and "." in extension]
    pictures = [extension for extension in pictures if extension not in images]
    own = [p for p in pictures if any(f"{p.rpartition('.')[0]}.{text}" in members for text in _TEXTS)]
    other = [picture for picture in pictures if picture not in own]
    if exact is not None or not pictures:
        yield Record(key, exact or (0, 0), members)
    for picture in own:
        stem = picture.rpartition(".")[0]
        start = stem + "."
        inside = {name[len(start) :]: place for name, place in members.items() if name.startswith(start)}
        yield Record(f"{key}.{stem}", members[picture], inside)
    if exact is None:
        for picture in other:
            yield Record(
                key, (0, 0), {},
                f"the sample has {', '.join(sorted(members))[:200]} and no member {' or '.join(images)}: name its "
                f"picture by ?image={picture}",
            )  # fmt: skip
