"""The page of `python -m tools.inspect_data`, with figures, histograms, broken records, and a contact sheet."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from siglip_tf import pages
from siglip_tf.data.inspection import Inspection, Sample
from siglip_tf.data.preprocessing import ImagePreprocessing

_SHEET_COLUMNS = 6
_THUMBNAIL = 160
_LEAST = 96  # smallest side of a picture on the sheet in pixels
_BINS = 40
_BROKEN_COLUMNS = ("cause", "shard", "offset", "id", "detail")


def page(found: Inspection, image: ImagePreprocessing) -> str:
    """Returns the page as a string.

    Args:
        found: the result of `siglip_tf.data.inspection.inspect`.
        image: the preprocessing of the samples' images.
    """
    share = f"{found.read:,} of {found.size:,} records, drawn at random" if found.read < found.size else "all records"
    skipped = found.read - found.used
    kinds = (("Formats", found.formats), ("Languages", found.languages)) if found.used else ()
    return pages.render(
        "inspect.html",
        title=found.source,
        about=f"{share} · images prepared as {image.method} at {image.size} pixels",
        tiles=_tiles(found),
        histograms=_histograms(found, image) if found.used else [],
        bars=[_bars(title, counts) for title, counts in kinds if counts],
        broken=found.broken,
        broken_columns=_BROKEN_COLUMNS,
        broken_count="" if skipped <= len(found.broken) else f" (the first {len(found.broken)} of {skipped:,})",
        samples=[_sample(sample, found.text_length) for sample in found.samples],
    )


def contact_sheet(samples: Sequence[Sample]) -> bytes:
    """Returns a PNG file with the samples' images in rows, as the model sees them. Very small images are enlarged."""
    from PIL import Image

    columns = min(_SHEET_COLUMNS, len(samples))
    times = max(1, _LEAST // samples[0].pixels.shape[0])
    size = samples[0].pixels.shape[0] * times
    gap = max(2, size // 32)
    rows = math.ceil(len(samples) / columns)
    sheet = np.full((rows * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, np.uint8)
    for number, sample in enumerate(samples):
        top, left = (gap + place * (size + gap) for place in divmod(number, columns))
        sheet[top : top + size, left : left + size] = sample.pixels.repeat(times, 0).repeat(times, 1)
    return _png(Image.fromarray(sheet))


def _tiles(found: Inspection) -> list[tuple[str, str, bool]]:
    """Returns the name and the value of each figure, and whether it is bad."""
    counts = [("read", found.read, False), ("used", found.used, False), ("skipped", found.read - found.used, True)]
    counts += [(cause.replace("_", " "), count, True) for cause, count in found.skipped.items()]
    if found.used:
        counts += [("captions", len(found.characters), False), ("repeated captions", found.repeated_captions, False)]
        counts.append(("images of one color", found.flat_images, False))
    tiles = [(name, f"{count:,}", bad and count > 0) for name, count, bad in counts]
    if found.truncated is not None:
        tiles.append((f"captions cut to {found.text_length} tokens", f"{found.truncated:.1%}", found.truncated > 0.05))
    return tiles


def _histograms(found: Inspection, image: ImagePreprocessing) -> list[dict[str, Any]]:
    shorter = np.minimum(found.heights, found.widths)
    small = float(np.mean(shorter < image.size))
    enlarged = f"{small:.1%} are smaller than {image.size} pixels and are enlarged."
    charts = [
        _histogram("Shorter side, pixels", shorter, image.size, enlarged),
        _histogram("Longer over shorter side", np.maximum(found.heights, found.widths) / np.maximum(shorter, 1)),
        _histogram("Characters a caption", found.characters),
    ]
    if found.tokens is not None:
        note = f"{found.truncated:.1%} are longer than {found.text_length} and are cut."
        charts.append(_histogram("Tokens a caption, end included", found.tokens, found.text_length, note, cut=True))
    charts.append(_histogram("Captions an image", found.captions_an_image))
    return charts


def _histogram(
    title: str, values: np.ndarray, mark: float | None = None, note: str = "", cut: bool = False
) -> dict[str, Any]:
    """Returns a histogram up to the 99.5th percentile. The last bar includes all larger values.

    A dashed line is drawn at `mark`. If `cut` is True, bars above it are red.
    """
    least, most = float(values.min()), float(max(np.percentile(values, 99.5), values.min() + 1))
    if mark is not None:
        least, most = min(least, mark), max(most, mark * 1.05)
    whole = bool(np.issubdtype(values.dtype, np.integer))
    if whole and most - least < _BINS:
        edges = np.arange(math.floor(least), math.ceil(most) + 2) - 0.5
    else:
        edges = np.linspace(least, most, _BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    width, height, decimals = 320, 110, 0 if whole else 1
    step = width / len(counts)
    bars = [
        {
            "x": number * step,
            "width": max(step - 1, 1),
            "height": max(1.0, height * count / counts.max()),
            "cut": cut and mark is not None and edges[number + 1] - 0.5 * whole > mark,
            "title": f"{edges[number]:,.4g} to {edges[number + 1]:,.4g}: {count:,}",
        }
        for number, count in enumerate(counts)
        if count
    ]
    line = None
    if mark is not None:
        at = width * (mark + 0.5 * (edges[0] % 1 == 0.5) - edges[0]) / (edges[-1] - edges[0])
        line = {"at": at, "name": f"{mark:,}"}
    inside = values.max() <= edges[-1]
    return {
        "title": title,
        "width": width,
        "height": height,
        "bars": bars,
        "mark": line,
        "first": f"{values.min():,.{decimals}f}",
        "last": f"{values.max():,.{decimals}f}" if inside else f"{edges[-1]:,.{decimals}f} and more",
        "note": f"median {np.median(values):,.{decimals}f}. {note}",
    }


def _bars(title: str, counts: Mapping[str, int]) -> dict[str, Any]:
    shown = sorted(counts.items(), key=lambda item: -item[1])[:8]
    most = max(counts.values())
    rows = [(name, count, count / most) for name, count in shown]
    return {"title": title, "rows": rows, "more": len(counts) - len(shown)}


def _sample(sample: Sample, text_length: int | None) -> dict[str, Any]:
    from PIL import Image

    picture = Image.fromarray(sample.pixels)
    if picture.width > _THUMBNAIL * 2:
        picture = picture.resize((_THUMBNAIL * 2, _THUMBNAIL * 2), Image.Resampling.LANCZOS)
    lost = ""
    if sample.seen is not None and text_length is not None and sample.tokens > text_length:
        # Compare words, because unknown tokens do not show the text.
        lost = " ".join(sample.caption.split()[len(sample.seen.split()) :])
    return {
        "picture": _png(picture),
        "caption": sample.caption,
        "text": sample.caption if sample.seen is None else sample.seen,
        "lost": lost,
        "tokens": None if sample.seen is None else sample.tokens,
        "name": sample.name,
        "id": sample.id,
    }


def _png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
