"""One self-contained HTML page of results: figures, tables, confusions, and pictures of what went right and wrong."""

import base64
import html
import math
from collections.abc import Mapping, Sequence

import tensorflow as tf

from siglip_tf.evaluation.results import Answer, Query, TaskResult

READING = (
    "The percentage beside an answer is the sigmoid of its logit t·cos + b: how likely this image and this text belong "
    "together, judged alone. It is absolute, does not sum to one over the answers, and is often small for the right "
    "answer too, because in training one text of a whole batch matches an image. Compare answers by rank and by ratio; "
    "the figures above use ranks only."
)

_THUMBNAIL = 112  # pixels of the longer side

_STYLE = """
:root { --ink: #1c2330; --soft: #667085; --line: #e3e6ec; --paper: #fff; --ground: #f6f7f9; --good: #14804a;
  --bad: #b42318; --accent: #3355cc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2c3444; --paper: #161b26;
  --ground: #0e121a; --good: #47cd89; --bad: #f97066; --accent: #8ea6ff; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 80px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 20px; margin: 40px 0 8px }
h3 { font-size: 15px; margin: 24px 0 8px }
p { max-width: 75ch } .soft { color: var(--soft) }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0 }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  min-width: 132px; font-size: 14px }
.card b { font-size: 24px; display: block; font-variant-numeric: tabular-nums }
.meter { height: 4px; border-radius: 2px; background: var(--line); margin-top: 6px; position: relative }
.meter i { position: absolute; inset: 0 auto 0 0; background: var(--accent); border-radius: 2px }
.meter u { position: absolute; top: -3px; width: 2px; height: 10px; background: var(--soft) }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); border-radius: 10px }
th, td { padding: 4px 12px; text-align: right; font-variant-numeric: tabular-nums; border-top: 1px solid var(--line) }
th { border-top: 0; color: var(--soft); font-weight: 500 } td:first-child, th:first-child { text-align: left }
.scroll { max-height: 420px; overflow: auto; display: inline-block; border-radius: 10px; vertical-align: top }
.scroll th { position: sticky; top: 0; background: var(--paper) }
.beside { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 12px }
.query { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 10px; display: flex;
  gap: 10px; flex-wrap: wrap } .query.wide { grid-column: 1 / -1 }
.query > img { width: 112px; height: 112px; object-fit: contain; background: var(--ground); border-radius: 6px }
.query .side { flex: 1; min-width: 170px } .query .head { font-weight: 600; width: 100%; overflow-wrap: anywhere }
ol { margin: 4px 0 0; padding: 0; list-style: none; font-size: 13px }
li { display: flex; justify-content: space-between; gap: 8px; overflow-wrap: anywhere }
li span:last-child { color: var(--soft); white-space: nowrap }
.right { color: var(--good); font-weight: 600 } .row { display: flex; gap: 8px; flex-wrap: wrap }
figure { margin: 0; text-align: center; font-size: 12px; color: var(--soft) }
figure img { width: 112px; height: 112px; object-fit: contain; background: var(--ground); border-radius: 6px;
  border: 3px solid transparent; display: block } figure.right img { border-color: var(--good) }
.rank { font-size: 12px; color: var(--soft); font-weight: 400 }
"""


def html_report(
    results: Sequence[TaskResult], title: str, about: Mapping[str, str], sigmoid_scores: bool = True
) -> str:
    """The page as a string.

    Args:
        results: of `Evaluation.run`.
        title: the heading, e.g. the checkpoint.
        about: lines of facts below it.
        sigmoid_scores: False for a softmax-trained model, whose logits have no absolute level: then they are shown.
    """
    facts = " · ".join(f"{html.escape(k)} {html.escape(v)}" for k, v in about.items())
    body = [f"<h1>{html.escape(title)}</h1><p class=soft>{facts}</p>"]
    for result in results:
        body.append(_task(result, sigmoid_scores))
    if sigmoid_scores:
        body.insert(1, f"<details><summary>How to read the scores</summary><p>{html.escape(READING)}</p></details>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><main>{''.join(body)}</main></html>"
    )


def _task(result: TaskResult, sigmoid_scores: bool) -> str:
    notes = " · ".join((f"{result.images:,} images", *result.notes, f"{result.seconds:.1f} s"))
    parts = [f"<h2>{html.escape(result.task)}</h2><p class=soft>{html.escape(notes)}</p>", _cards(result)]
    tables = []
    if result.kind == "zero_shot":
        worst_first = sorted(result.rows.items(), key=lambda item: item[1]["top1"])
        rows = [(name, percent(row["top1"]), f"{row['images']:.0f}") for name, row in worst_first]
        tables.append(_table("Classes, the worst first", ("class", "top-1", "images"), rows))
    elif result.rows:
        columns = list(next(iter(result.rows.values())))
        rows = [(name, *(percent(row[c]) for c in columns)) for name, row in result.rows.items()]
        first = "language" if result.kind == "retrieval" else "draw"
        tables.append(_table("", (first, *(c.replace("_", " ") for c in columns)), rows))
    if result.confusions:
        tables.append(_table("Taken for one another", ("class", "taken for", "times"), result.confusions))
    parts.append(f"<div class=beside>{''.join(tables)}</div>")
    thumbnails = _thumbnails(result)
    for heading, queries in result.queries.items():
        if queries:
            shown = "".join(_query(q, thumbnails, sigmoid_scores, result.kind) for q in queries)
            parts.append(f"<h3>{html.escape(heading)}</h3><div class=grid>{shown}</div>")
    return "".join(parts)


def _cards(result: TaskResult) -> str:
    cards = []
    for name, value in result.metrics.items():
        chance = result.chance.get(name)
        tick = "" if chance is None else f"<u style='left:{100 * chance:.2f}%'></u>"
        note = "" if chance is None else f"<span class=soft>chance {percent(chance)}</span>"
        label = html.escape(name.replace("_", " "))
        cards.append(
            f"<div class=card><span class=soft>{label}</span><b>{percent(value)}</b>{note}"
            f"<div class=meter><i style='width:{100 * value:.2f}%'></i>{tick}</div></div>"
        )
    return f"<div class=cards>{''.join(cards)}</div>"


def _table(heading: str, columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    head = "".join(f"<th>{html.escape(c)}" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows)
    title = f"<h3>{html.escape(heading)}</h3>" if heading else ""
    return f"<div>{title}<div class=scroll><table><tr>{head}{body}</table></div></div>"


def _query(query: Query, thumbnails: Mapping[int, str], sigmoid_scores: bool, kind: str) -> str:
    def score(answer: Answer) -> str:
        return percent(_sigmoid(answer.logit)) if sigmoid_scores else f"{answer.logit:.1f}"

    found = query.rank < len(query.answers) or kind == "retrieval"
    rank = f" <span class=rank>right answer ranked {query.rank + 1}</span>" if found else ""
    if query.answers and query.answers[0].image is not None:
        figures = "".join(
            f"<figure{' class=right' if a.right else ''}><img alt='' src='{thumbnails[a.image]}'>{score(a)}</figure>"
            for a in query.answers
        )
        text = html.escape(query.text or "")
        return f"<div class='query wide'><div class=head>{text}{rank}</div><div class=row>{figures}</div></div>"
    answers = "".join(
        f"<li{' class=right' if a.right else ''}><span>{html.escape(a.text or '')}</span><span>{score(a)}</span></li>"
        for a in query.answers
    )
    head = f"<div class=head>{html.escape(query.text or '')}{rank}</div>"
    image = f"<img alt='' src='{thumbnails[query.image]}'>"
    return f"<div class=query>{image}<div class=side>{head}<ol>{answers}</ol></div></div>"


def _thumbnails(result: TaskResult) -> dict[int, str]:
    """Data URLs of the images that the queries show."""
    needed = {q.image for queries in result.queries.values() for q in queries}
    needed |= {a.image for queries in result.queries.values() for q in queries for a in q.answers}
    indices = sorted(needed - {None})
    return {i: data_url(thumbnail(data)) for i, data in zip(indices, result.images_of.read(indices), strict=True)} \
        if indices else {}  # fmt: skip


def thumbnail(data: bytes, side: int = _THUMBNAIL) -> bytes:
    """A JPEG of at most `side` pixels, aspect kept; small images stay their size."""
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    resized = tf.image.resize(image, size, antialias=True)
    return tf.io.encode_jpeg(tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8), quality=85).numpy()


def data_url(jpeg: bytes) -> str:
    """A `data:` URL, so that a page holds its pictures."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def percent(value: float) -> str:
    """A share of one in per cent, with two significant digits however small it is."""
    hundredths = 100 * value
    if hundredths == 0 or hundredths >= 10:
        return f"{hundredths:.1f} %"
    if hundredths < 1e-6:
        return f"{hundredths:.0e} %"
    digits = max(1, 1 - math.floor(math.log10(hundredths)))
    return f"{hundredths:.{digits}f} %"


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))
