"""The page that a run ends in: figures beside chance, curves, and pictures found, in one HTML file with no links."""

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from siglip_tf.experiments.charts import Series, line_chart
from siglip_tf.storage import write_file


@dataclass(frozen=True)
class Figure:
    """One row of the table: a share in 0..1 beside what guessing would give and what was aimed at."""

    name: str
    value: float
    chance: float
    goal: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.value >= self.goal


@dataclass(frozen=True)
class Found:
    """A text and the pictures found for it, best first, each with whether it is right."""

    query: str
    pictures: Sequence[tuple[bytes, bool]]


@dataclass(frozen=True)
class Asked:
    """A picture that the exported model was shown, the truth, and its answers (see `ask_saved_model.ask`)."""

    picture: bytes
    truth: str
    answers: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Mistake:
    """A picture put into the wrong class."""

    picture: bytes
    truth: str
    answer: str


@dataclass
class Report:
    """Everything on the page. `metrics` are the lines of the run's `metrics.jsonl`."""

    title: str
    summary: str
    tiles: Sequence[tuple[str, str]]
    figures: Sequence[Figure]
    metrics: Sequence[dict[str, Any]]
    found: Sequence[Found] = ()
    found_note: str = ""
    asked: Sequence[Asked] = ()
    mistakes: Sequence[Mistake] = ()
    mistakes_note: str = ""
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page."""
        write_file(path, self.to_html())

    def to_html(self) -> str:
        """The page."""
        sections = [
            ("Figures", self._table()),
            ("Training", self._curves()),
            ("Texts and the pictures found", self._found()),
            ("The exported model, asked in a fresh process", self._asked()),
            ("Where it errs", self._mistakes()),
            ("The run", self._facts()),
        ]
        body = "".join(f"<section><h2>{_text(name)}</h2>{content}</section>" for name, content in sections if content)
        tiles = "".join(
            f'<div class="tile"><div class="big">{_text(value)}</div><div>{_text(name)}</div></div>'
            for name, value in self.tiles
        )
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
            f"<body><main><header><h1>{_text(self.title)}</h1><p>{_text(self.summary)}</p></header>"
            f'<div class="tiles">{tiles}</div>{body}</main></body></html>\n'
        )

    def _table(self) -> str:
        rows = []
        for figure in self.figures:
            note = f'<div class="note">{_text(figure.note)}</div>' if figure.note else ""
            goal, mark = "", ""
            if figure.reached is not None:
                kind, word = ("good", "reached") if figure.reached else ("bad", "missed")
                mark = f'<span class="{kind}">{word}</span>'
                goal = _percent(figure.goal)
            times = f"{figure.value / figure.chance:,.0f} &times;" if figure.chance else ""
            bar = f'<div class="bar"><div style="width:{100 * figure.value:.1f}%"></div></div>'
            rows.append(
                f'<tr><td>{_text(figure.name)}{note}</td><td class="number strong">{_percent(figure.value)}</td>'
                f'<td class="wide">{bar}</td><td class="number">{_percent(figure.chance)}</td>'
                f'<td class="number">{times}</td><td class="number">{goal}</td><td>{mark}</td></tr>'
            )
        head = (
            '<tr><th></th><th class="number">result</th><th></th><th class="number">chance</th>'
            '<th class="number">over chance</th><th class="number">goal</th><th></th></tr>'
        )
        return f'<div class="card scroll"><table>{head}{"".join(rows)}</table></div>' if rows else ""

    def _curves(self) -> str:
        charts = [
            ("Loss", ["loss"], False, None),
            ("Norm of the gradient", ["gradient_norm"], True, None),
            ("Temperature t", ["temperature"], False, None),
            ("Bias b", ["bias"], False, None),
            ("Mean logit of matching and of other pairs", ["positive_logit", "negative_logit"], False, 0.0),
            ("Images a second", ["images_per_second"], False, None),
        ]
        cards = []
        for title, names, log_y, reference in charts:
            series = [self._series(name, log_y) for name in names]
            series = [line for line in series if line.x]
            if not series:
                continue
            legend = ""
            if len(series) > 1:
                keys = [f'<span class="key key-{i}">{_text(line.name)}</span>' for i, line in enumerate(series)]
                legend = f'<div class="legend">{"".join(keys)}</div>'
            cards.append(
                f'<figure class="card"><figcaption>{_text(title)}</figcaption>{legend}'
                f"{line_chart(series, 'step', log_y, reference)}</figure>"
            )
        return f'<div class="charts">{"".join(cards)}</div>' if cards else ""

    def _series(self, name: str, log_y: bool) -> Series:
        points = [(line["step"], line[name]) for line in self.metrics if isinstance(line.get(name), int | float)]
        points = [(x, y) for x, y in points if y > 0 or not log_y]
        label = {"positive_logit": "matching", "negative_logit": "other"}.get(name, name)
        return Series(label, [x for x, _ in points], [y for _, y in points])

    def _found(self) -> str:
        if not self.found:
            return ""
        rows = []
        for query in self.found:
            pictures = "".join(
                f'<img class="{"right" if right else "wrong"}" alt="" src="{_data_uri(picture)}">'
                for picture, right in query.pictures
            )
            rows.append(
                f'<div class="query"><div class="words">{_text(query.query)}</div>'
                f'<div class="row">{pictures}</div></div>'
            )
        return f'<p class="note">{_text(self.found_note)}</p><div class="card queries">{"".join(rows)}</div>'

    def _asked(self) -> str:
        if not self.asked:
            return ""
        cards = []
        for asked in self.asked:
            rows = "".join(
                f'<tr class="{"strong" if answer["label"] == asked.truth else ""}"><td>{_text(answer["label"])}</td>'
                f'<td class="wide"><div class="bar"><div style="width:{100 * answer["share"]:.1f}%"></div></div></td>'
                f'<td class="number">{answer["share"]:.1%}</td><td class="number">{answer["probability"]:.1e}</td></tr>'
                for answer in asked.answers
            )
            head = '<tr><th>label</th><th></th><th class="number">softmax</th><th class="number">sigmoid</th></tr>'
            cards.append(
                f'<div class="card asked"><img alt="" src="{_data_uri(asked.picture)}">'
                f"<table>{head}{rows}</table></div>"
            )
        note = (
            "JPEG bytes and strings in, ranked labels out, with TensorFlow and tensorflow_text alone. The softmax "
            "shares out one whole among the labels given. The sigmoid judges each text by itself, as the model was "
            "trained: it is absolute and often small, and its order is what counts."
        )
        return f'<p class="note">{note}</p><div class="asks">{"".join(cards)}</div>'

    def _mistakes(self) -> str:
        if not self.mistakes:
            return ""
        cards = "".join(
            f'<figure><img alt="" src="{_data_uri(mistake.picture)}"><figcaption><b>{_text(mistake.truth)}</b><br>'
            f"taken for {_text(mistake.answer)}</figcaption></figure>"
            for mistake in self.mistakes
        )
        return f'<p class="note">{_text(self.mistakes_note)}</p><div class="card mistakes">{cards}</div>'

    def _facts(self) -> str:
        rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in self.facts)
        return f'<div class="card scroll"><table class="facts">{rows}</table></div>' if rows else ""


def _text(value: str) -> str:
    return html.escape(str(value))


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0995 or share == 0 else f"{share:.2%}"


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


_STYLE = """
:root{--ground:#f5f6f8;--card:#fff;--ink:#1c2530;--soft:#5d6875;--rule:#e3e7ec;--one:#2563c9;--two:#d9731a;
--good:#1a8a4a;--bad:#c2382e}
@media (prefers-color-scheme:dark){:root{--ground:#12161b;--card:#1b2128;--ink:#e6eaf0;--soft:#98a3b0;--rule:#2e3741;
--one:#6ba0f2;--two:#f0a05a;--good:#4cc27f;--bad:#ee7268}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:29px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em}
h2{font-size:19px;margin:40px 0 12px}
header p{margin:0;color:var(--soft);max-width:72ch}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 18px}
.scroll{overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:24px}
.tile{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 18px;color:var(--soft);
font-size:13px}
.big{font-size:25px;font-weight:650;color:var(--ink);font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}
th{font-weight:500;font-size:12.5px;color:var(--soft);text-align:left}
td,th{padding:7px 12px 7px 0;border-bottom:1px solid var(--rule);vertical-align:middle}
tr:last-child td{border-bottom:0}
td.number,th.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.strong{font-weight:650}.wide{width:24%;min-width:90px}
.bar{height:7px;border-radius:4px;background:var(--rule);overflow:hidden}.bar div{height:100%;background:var(--one)}
.note{color:var(--soft);font-size:13px;font-weight:400;max-width:84ch;margin:0 0 12px}td .note{margin:0}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:14px}
figure{margin:0}figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--rule)}.reference{stroke:var(--soft);stroke-dasharray:3 4}
.tick{fill:var(--soft);font-size:11.5px;font-variant-numeric:tabular-nums}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.line-0{stroke:var(--one)}.line-1{stroke:var(--two)}
.legend{font-size:12.5px;color:var(--soft)}.key{margin-right:16px}
.key:before{content:"";display:inline-block;width:14px;height:3px;border-radius:2px;margin:0 6px 3px 0;
background:var(--one)}
.key-1:before{background:var(--two)}
.query{display:grid;grid-template-columns:270px 1fr;gap:16px;align-items:center;padding:9px 0;
border-bottom:1px solid var(--rule)}
.query:last-child{border-bottom:0}.words{font-size:14px}
.row{display:flex;gap:8px;flex-wrap:wrap}
img{image-rendering:auto;border-radius:6px;display:block}
.row img{width:76px;height:76px;object-fit:cover;border:3px solid transparent}
.row img.right{border-color:var(--good)}.row img.wrong{opacity:.82}
.asks{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:14px}
.asked{display:grid;grid-template-columns:112px 1fr;gap:18px;align-items:start;overflow-x:auto}
.asked img{width:112px;height:112px;object-fit:cover}.asked table{font-size:13.5px}.asked td{padding:4px 10px 4px 0}
.mistakes{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:14px}
.mistakes img{width:100%;aspect-ratio:1;object-fit:cover;margin-bottom:5px}
.mistakes figcaption{font-weight:400;font-size:12px;line-height:1.35;color:var(--soft)}.mistakes b{color:var(--ink)}
.facts td:first-child{color:var(--soft);white-space:nowrap;width:1%;padding-right:28px}
@media (max-width:640px){.query{grid-template-columns:1fr}.asks{grid-template-columns:1fr}
.asked{grid-template-columns:80px 1fr}.asked img{width:80px;height:80px}}
"""
