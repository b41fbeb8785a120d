"""The page of `python -m tools.inspect_data`: figures, histograms, broken records and a contact sheet, in one file."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from siglip_tf.data.inspection import Inspection, Sample
from siglip_tf.data.preprocessing import ImagePreprocessing

_SHEET_COLUMNS = 6
_THUMBNAIL = 160
_LEAST = 96  # pixels of a picture on the sheet
_BINS = 40
_STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e3e6ec; --paper: #fff; --ground: #f6f7f9; --bad: #b42318;
  --accent: #3355cc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3444; --paper: #161b26;
  --ground: #0e121a; --bad: #f97066; --accent: #8ea6ff; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 80px }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere } h2 { font-size: 20px; margin: 40px 0 8px }
.soft { color: var(--soft) }
.cards, .charts { display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0 }
.card, .chart { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px }
.card { min-width: 132px } .card b { font-size: 24px; display: block; font-variant-numeric: tabular-nums }
.card.bad b { color: var(--bad) }
.chart { flex: 1; min-width: 300px } .chart h3 { font-size: 14px; margin: 0 0 8px; font-weight: 600 }
.chart svg { width: 100%; height: auto; display: block } .chart p { margin: 8px 0 0; font-size: 13px }
rect { fill: var(--accent) } rect.cut { fill: var(--bad) } line { stroke: var(--ink); stroke-dasharray: 3 3 }
text { font: 11px system-ui, sans-serif; fill: var(--soft) }
.wide { overflow-x: auto }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); border-radius: 10px }
th, td { padding: 4px 12px; text-align: left; border-top: 1px solid var(--line); font-size: 13px;
  white-space: nowrap } td:last-child { white-space: normal; min-width: 300px }
th { border-top: 0; color: var(--soft); font-weight: 500 }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(172px, 1fr)); gap: 12px }
figure { margin: 0; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 8px;
  font-size: 13px; line-height: 1.4; overflow-wrap: anywhere }
figure img { width: 100%; aspect-ratio: 1; display: block; border-radius: 6px; margin-bottom: 6px }
figure small { color: var(--soft); display: block; margin-top: 4px } del { color: var(--bad) }
"""


def page(found: Inspection, image: ImagePreprocessing) -> str:
    """The page as a string.

    Args:
        found: of `siglip_tf.data.inspection.inspect`.
        image: how the samples' images were prepared.
    """
    share = f"{found.read:,} of {found.size:,} records, drawn at random" if found.read < found.size else "all records"
    parts = [
        f"<h1>{html.escape(found.source)}</h1>",
        f"<p class=soft>{share} · images prepared as {image.method} at {image.size} pixels</p>",
        _cards(found),
    ]
    if found.used:
        parts += ["<div class=charts>", *_charts(found, image), "</div>"]
    if found.broken:
        parts.append(_broken(found))
    if found.samples:
        parts.append(
            "<h2>As the model sees them</h2><p class=soft>Images after resizing, captions after tokenisation; what "
            "is struck out is cut off.</p><div class=sheet>"
            + "".join(_figure(sample, found.text_length) for sample in found.samples)
            + "</div>"
        )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(found.source)}</title><style>{_STYLE}</style><main>{''.join(parts)}</main></html>"
    )


def contact_sheet(samples: Sequence[Sample]) -> bytes:
    """PNG bytes: the samples' images in rows, as the model sees them; very small ones enlarged pixel by pixel."""
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


def _cards(found: Inspection) -> str:
    cards = [("read", found.read, ""), ("used", found.used, ""), ("skipped", found.read - found.used, "bad")]
    cards += [(cause.replace("_", " "), count, "bad") for cause, count in found.skipped.items()]
    if found.used:
        cards += [("captions", len(found.characters), ""), ("repeated captions", found.repeated_captions, "")]
        cards.append(("images of one colour", found.flat_images, ""))
    shown = [(name, f"{count:,}", "bad" if kind and count else "") for name, count, kind in cards]
    if found.truncated is not None:
        kind = "bad" if found.truncated > 0.05 else ""
        shown.append((f"captions cut to {found.text_length} tokens", f"{found.truncated:.1%}", kind))
    return (
        "<div class=cards>"
        + "".join(f"<div class='card {kind}'><b>{value}</b>{html.escape(name)}</div>" for name, value, kind in shown)
        + "</div>"
    )


def _charts(found: Inspection, image: ImagePreprocessing) -> list[str]:
    shorter = np.minimum(found.heights, found.widths)
    small = float(np.mean(shorter < image.size))
    charts = [
        _histogram(
            "Shorter side, pixels",
            shorter,
            image.size,
            f"{small:.1%} are smaller than {image.size} pixels and are enlarged.",
        ),
        _histogram("Longer over shorter side", np.maximum(found.heights, found.widths) / np.maximum(shorter, 1)),
        _histogram("Characters a caption", found.characters),
    ]
    if found.tokens is not None:
        note = f"{found.truncated:.1%} are longer than {found.text_length} and are cut."
        charts.append(_histogram("Tokens a caption, end included", found.tokens, found.text_length, note, cut=True))
    charts.append(_histogram("Captions an image", found.captions_an_image))
    charts.append(_bars("Formats", found.formats))
    if found.languages:
        charts.append(_bars("Languages", found.languages))
    return charts


def _histogram(title: str, values: np.ndarray, mark: float | None = None, note: str = "", cut: bool = False) -> str:
    """Bars up to the 99.5th percentile, the rest in the last; a dashed line at `mark`, bars above it red if `cut`."""
    least, most = float(values.min()), float(max(np.percentile(values, 99.5), values.min() + 1))
    if mark is not None:
        least, most = min(least, mark), max(most, mark * 1.05)
    whole = np.issubdtype(values.dtype, np.integer)
    if whole and most - least < _BINS:
        edges = np.arange(math.floor(least), math.ceil(most) + 2) - 0.5
    else:
        edges = np.linspace(least, most, _BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    width, height = 320, 110
    step = width / len(counts)
    bars = []
    for number, count in enumerate(counts):
        if count:
            tall = max(1.0, height * count / counts.max())
            kind = " class=cut" if cut and edges[number + 1] - 0.5 * whole > mark else ""
            bars.append(
                f"<rect{kind} x={number * step:.1f} y={height - tall:.1f} width={max(step - 1, 1):.1f} "
                f"height={tall:.1f}><title>{edges[number]:,.4g} to {edges[number + 1]:,.4g}: {count:,}</title></rect>"
            )
    if mark is not None:
        at = width * (mark + 0.5 * (edges[0] % 1 == 0.5) - edges[0]) / (edges[-1] - edges[0])
        bars.append(f"<line x1={at:.1f} x2={at:.1f} y1=0 y2={height} /><text x={at + 4:.1f} y=10>{mark:,}</text>")
    decimals = 0 if whole else 1
    labels = f"<text x=0 y={height + 14}>{values.min():,.{decimals}f}</text>"
    last = f"{values.max():,.{decimals}f}" if values.max() <= edges[-1] else f"{edges[-1]:,.{decimals}f} and more"
    labels += f"<text x={width} y={height + 14} text-anchor=end>{last}</text>"
    text = f"median {np.median(values):,.{decimals}f}. {note}"
    return (
        f"<div class=chart><h3>{html.escape(title)}</h3><svg viewBox='0 0 {width} {height + 18}' role=img>"
        f"{''.join(bars)}{labels}</svg><p class=soft>{html.escape(text)}</p></div>"
    )


def _bars(title: str, counts: Mapping[str, int]) -> str:
    shown = dict(sorted(counts.items(), key=lambda item: -item[1])[:8])
    most = max(counts.values())
    rows = "".join(
        f"<text x=0 y={18 * i + 12}>{html.escape(name)}</text><rect x=90 y={18 * i + 3} rx=2 height=11 "
        f"width={max(1, 160 * count / most):.1f} /><text x=320 y={18 * i + 12} text-anchor=end>{count:,}</text>"
        for i, (name, count) in enumerate(shown.items())
    )
    more = f"<p class=soft>and {len(counts) - len(shown)} more</p>" if len(counts) > len(shown) else ""
    return (
        f"<div class=chart><h3>{html.escape(title)}</h3><svg viewBox='0 0 320 {18 * len(shown)}' role=img>{rows}</svg>"
        f"{more}</div>"
    )


def _broken(found: Inspection) -> str:
    columns = ("cause", "shard", "offset", "id", "detail")
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(entry[name]))}</td>" for name in columns) + "</tr>"
        for entry in found.broken
    )
    head = "".join(f"<th>{name}</th>" for name in columns)
    skipped = found.read - found.used
    count = "" if skipped <= len(found.broken) else f" (the first {len(found.broken)} of {skipped:,})"
    return f"<h2>Broken records{count}</h2><div class=wide><table><tr>{head}</tr>{rows}</table></div>"


def _figure(sample: Sample, text_length: int | None) -> str:
    from PIL import Image

    picture = Image.fromarray(sample.pixels)
    if picture.width > _THUMBNAIL * 2:
        picture = picture.resize((_THUMBNAIL * 2, _THUMBNAIL * 2), Image.Resampling.LANCZOS)
    source = "data:image/png;base64," + base64.b64encode(_png(picture)).decode()
    text = html.escape(sample.caption if sample.seen is None else sample.seen)
    if sample.seen is not None:
        # By words: tokens that stand for the unknown spell nothing.
        lost = " ".join(sample.caption.split()[len(sample.seen.split()) :]) if sample.tokens > text_length else ""
        text += (f" <del>{html.escape(lost)}</del>" if lost else "") + f"<small>{sample.tokens} tokens</small>"
    return (
        f"<figure><img src='{source}' alt='{html.escape(sample.caption, quote=True)}'>{text}"
        f"<small title='{html.escape(sample.name, quote=True)}'>{html.escape(sample.id)}</small></figure>"
    )


def _png(picture: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
