"""The text of the studies' results, as a page (`report.html`) and as Markdown (`docs/studies.md`)."""

from __future__ import annotations

import base64
import dataclasses
import html
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from siglip_tf.storage import write_file

from .study import SEEDS, Study, Table
from .verdict import NOISE, REVERSED, RULE, SEEN, TOO_FEW, Verdict

DOCUMENT = Path("docs") / "studies.md"
_ENOUGH = 0.15  # of a study's cells
TITLE = "The paper's studies, at small scale"
_CLASSES = {SEEN: "seen", REVERSED: "reversed", NOISE: "noise", TOO_FEW: "noise"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A study as the report has it: `paragraphs` are Markdown; pictures lie in the pictures' folder."""

    title: str
    paragraphs: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[tuple[str, str]]
    verdicts: Sequence[Verdict]
    notes: Sequence[str]
    command: str


def sections(studies: Sequence[Study], seeds: int, root: Path, pictures: Path) -> list[Section]:
    """The studies of which enough is computed to say something, their pictures drawn into a folder."""
    found = []
    for study in studies:
        results = study.results(seeds, root)
        total = len(study.cells(seeds))
        if total - results.missing < _ENOUGH * total:
            continue
        findings = study.findings(results)
        for picture in findings.pictures:
            picture.draw(pictures / f"{picture.name}.png")
        notes = list(findings.notes)
        if results.missing:
            waiting = sum(verdict.outcome == TOO_FEW for verdict in findings.verdicts)
            notes.insert(
                0,
                f"**{results.missing} of this study's {total} cells are not computed yet**: their places hold a dash, "
                f"and {waiting} claims wait for them.",
            )
        found.append(
            Section(
                study.title,
                (f"*{study.paper}.* {study.question}", f"**Here:** {study.setup}"),
                findings.tables,
                [(f"{picture.name}.png", picture.caption) for picture in findings.pictures],
                [verdict for verdict in findings.verdicts if verdict.outcome != TOO_FEW],
                notes,
                f"python -m recipes.studies.{study.name}" + ("" if seeds == SEEDS else f" --seeds {seeds}"),
            )
        )
    return found


def introduction(studies: Sequence[Study], found: Sequence[Section], seeds: int, command: str) -> list[str]:
    """What stands above the sections, as paragraphs of Markdown."""
    titles = {section.title for section in found}
    left_out = [study.title for study in studies if study.title not in titles]
    unfinished = []
    if left_out:
        unfinished = [f"**Not computed yet, and left out here:** {'; '.join(left_out)}. The command below goes on."]
    return [
        *unfinished,
        "The questions of *Sigmoid Loss for Language Image Pre-Training* asked again of small models on the embedded "
        "data: drawn scenes with captions in six languages, two towers of width 64, minutes on two CPU cores. Accuracy "
        "is zero-shot, of 100 classes (a colour and a shape), on 1,000 new pictures; ± is the standard error over "
        "seeds.",
        RULE + " Small models, easy pictures and few steps are not the paper's: an ordering that is not seen here says "
        "nothing against it, and one that is seen was not built in.",
        f"{seeds} seeds a row. {versions()}. Command: `{command}`.",
    ]


def versions() -> str:
    """Of everything that decides the figures."""
    import keras
    import tensorflow as tf

    import siglip_tf

    return (
        f"siglip_tf {siglip_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}"
    )


def to_markdown(found: Sequence[Section], opening: Sequence[str], pictures: str) -> str:
    """The report as Markdown; `pictures` is their folder as the document sees it."""
    parts = [f"# {TITLE}", *opening, "## What was seen", _overview(found)]
    for section in found:
        parts += [f"## {section.title}", *section.paragraphs]
        parts += [f"![{caption}]({pictures}/{name})\n\n*{caption}*" for name, caption in section.pictures]
        for table in section.tables:
            parts += [table.caption, _markdown_table(table)]
        parts.append("\n".join(f"- {verdict.sentence()}" for verdict in section.verdicts))
        parts += [*section.notes, f"`{section.command}`"]
    return "\n\n".join(parts) + "\n"


def _overview(found):
    rows = []
    for section in found:
        counts = {o: sum(v.outcome == o for v in section.verdicts) for o in (SEEN, NOISE, REVERSED)}
        rows.append((section.title, *(str(counts[o]) if counts[o] else "" for o in counts)))
    return _markdown_table(Table("", ("claims of", SEEN, NOISE, REVERSED), rows))


def _markdown_table(table):
    lines = [table.header, ["---"] + ["---:"] * (len(table.header) - 1), *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_html(found: Sequence[Section], opening: Sequence[str], pictures: Path) -> str:
    """The report as one page without links; pictures are read from a folder and put into it."""
    body = [f"<h1>{html.escape(TITLE)}</h1>", *(f"<p>{_inline(text)}</p>" for text in opening)]
    for section in found:
        body.append(f"<section><h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{_inline(text)}</p>" for text in section.paragraphs]
        for name, caption in section.pictures:
            data = base64.b64encode((pictures / name).read_bytes()).decode()
            body.append(
                f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        verdicts = "".join(
            f'<li><b class="{_CLASSES[v.outcome]}">{v.outcome}</b> {html.escape(v.claim)} '
            f"<small>{html.escape(v.evidence)}</small></li>"
            for v in section.verdicts
        )
        body.append(f'<ul class="verdicts">{verdicts}</ul>')
        for table in section.tables:
            body.append(f'<p class="caption">{_inline(table.caption)}</p>{_html_table(table)}')
        body += [f'<p class="note">{_inline(note)}</p>' for note in section.notes]
        body.append(f'<p class="note"><code>{html.escape(section.command)}</code></p></section>')
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(TITLE)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _html_table(table):
    def row(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table>{row(table.header, "th")}{rows}</table></div>'


def _inline(text):
    """Emphasis, code and bold of Markdown."""
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\*([^*]+)\*", r"<i>\1</i>", text)


def write(studies: Sequence[Study], seeds: int, root: Path, name: str) -> Path:
    """Writes the page of a sweep: `report.html` of all studies, `NAME.html` of one."""
    pictures = root / "pictures"
    found = sections(studies, seeds, root, pictures)
    command = f"python -m recipes.studies.{name} --scale small --seeds {seeds}"
    path = root / ("report.html" if name == "all" else f"{name}.html")
    write_file(path, to_html(found, introduction(studies, found, seeds, command), pictures))
    return path


def write_document(studies: Sequence[Study], seeds: int, root: Path, document: Path = DOCUMENT) -> list[Section]:
    """Writes the Markdown and its pictures, in a folder named like it."""
    pictures = document.with_suffix("")
    found = sections(studies, seeds, root, pictures)
    command = f"python -m recipes.studies.all --scale small --seeds {seeds}"
    write_file(document, to_markdown(found, introduction(studies, found, seeds, command), pictures.name))
    return found


_STYLE = """
:root{--ground:#f5f6f8;--card:#fff;--ink:#1c2530;--soft:#5d6875;--rule:#e3e7ec;--good:#1a8a4a;--bad:#c2382e}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:960px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:29px;line-height:1.2;margin:0 0 12px}h2{font-size:20px;margin:0 0 10px}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:20px 24px;margin-top:24px}
p{max-width:80ch}figure{margin:16px 0}img{max-width:100%;height:auto;display:block}
figcaption,.note,small{color:var(--soft);font-size:13px}.caption{margin:18px 0 6px;font-size:13.5px;color:var(--soft)}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
td,th{padding:5px 14px 5px 0;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th{font-weight:500;color:var(--soft);white-space:normal;vertical-align:bottom}
td:first-child,th:first-child{text-align:left}.scroll{overflow-x:auto}
.verdicts{list-style:none;padding:0;margin:12px 0}.verdicts li{padding:5px 0;border-bottom:1px solid var(--rule)}
.verdicts b{display:inline-block;min-width:108px;color:var(--soft)}.verdicts .seen{color:var(--good)}
.verdicts .reversed{color:var(--bad)}code{font-size:13px;background:var(--ground);padding:1px 4px;border-radius:4px}
"""
