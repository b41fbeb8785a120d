"""Describes bytes that are not an image of a known format."""

# The first bytes of files whose names say that they are pictures, but which are not.
_BEGINNINGS = (
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
)
# Kinds of ISO media files, by the brand after "ftyp".
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image",
           b"mif1": "a HEIC image", b"hevc": "a HEIC image"}  # fmt: skip
_MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "an SVG drawing"))
_SHOWN = 24


def described(data: bytes) -> str:
    """Returns a phrase such as "an HTML page", "the text 'Not found'", or "12,345 bytes of an unknown kind"."""
    for beginning, words in _BEGINNINGS:
        if data.startswith(beginning):
            return words
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video or another ISO media file")
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, words in _MARKUP:
        if head.startswith(beginning) or (head.startswith(b"<?xml") and beginning in head):
            return words
    if not data.strip(b"\0"):
        return f"{len(data):,} zero bytes"
    try:
        text = data[:_SHOWN].decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if text and text.replace("\n", " ").replace("\t", " ").strip().isprintable():
        return f"the text {text!r}" + ("..." if len(data) > _SHOWN else "")
    return f"{len(data):,} bytes of an unknown kind"
