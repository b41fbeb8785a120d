"""The text of the studies' results, as a page (`report.html`) and as Markdown (`docs/studies.md`)."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path

from siglip_tf import pages
from siglip_tf.storage import write_file

from .plots import draw_intervals
from .study import SEEDS, Findings, Study, Table
from .verdict import NOT_SEEN, RULE, SEEN, SMALLER, TOO_FEW, Verdict

DOCUMENT = Path("docs") / "studies.md"
TITLE = "The paper's studies, at small scale"
HEADLINE = "headline.png"
HEADLINE_CAPTION = "Differences of the claims above with their intervals; the paper's side is on the right of 0."


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
    advice: str = ""


def sections(studies: Sequence[Study], seeds: int, root: Path, pictures: Path) -> list[Section]:
    """All studies, their pictures drawn into a folder; of a study that has no cell yet, its claims alone."""
    found = []
    for study in studies:
        results = study.results(seeds, root)
        total = len(study.cells(seeds))
        findings = study.findings(results)
        notes = list(findings.notes)
        if results.missing == total:
            notes = [f"**None of the {total} cells of this study is computed yet.**"]
            findings = Findings((), (), findings.verdicts)
        elif results.missing:
            waiting = sum(verdict.outcome == TOO_FEW for verdict in findings.verdicts)
            notes.insert(
                0,
                f"**{results.missing} of the {total} cells of this study are not computed yet**: their places hold a "
                f"dash, and {waiting} claims wait for them.",
            )
        for picture in findings.pictures:
            picture.draw(pictures / f"{picture.name}.png")
        found.append(
            Section(
                study.title,
                (f"*{study.paper}.* {study.question}", f"**Here:** {study.setup}"),
                findings.tables,
                [(f"{picture.name}.png", picture.caption) for picture in findings.pictures],
                findings.verdicts,
                notes,
                f"python -m recipes.studies.{study.name}" + ("" if seeds == SEEDS else f" --seeds {seeds}"),
                findings.advice if any(v.outcome != TOO_FEW for v in findings.verdicts) else "",
            )
        )
    return found


def introduction(found: Sequence[Section]) -> list[str]:
    """Returns the text above the first table, as paragraphs of Markdown."""
    waiting = [section.title for section in found if all(v.outcome == TOO_FEW for v in section.verdicts)]
    unfinished = []
    if waiting:
        unfinished = [
            f"**Not computed yet:** {'; '.join(waiting)}. Their claims stand below without a verdict; the command in "
            "*How to read it* computes them."
        ]
    return [
        "The questions of *Sigmoid Loss for Language Image Pre-Training* asked again of small models on crowded drawn "
        "scenes: one to three equal objects (the subject) among others that share their color or shape. Accuracy is "
        "zero-shot over 1,200 compositions (number, texture, color, and shape of the subject) on 2,000 new pictures. "
        "Learning rates and starts of t and b are chosen on seeds and pictures that no result uses.",
        *unfinished,
        summary_of(found),
    ]


def summary_of(found: Sequence[Section]) -> str:
    """Returns a sentence that counts the claims with each verdict."""
    verdicts = [verdict for section in found for verdict in section.verdicts]
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in (SEEN, NOT_SEEN, SMALLER, TOO_FEW)}
    undecided = sum(v.undecided for v in verdicts)
    return (
        f"Of {len(verdicts)} claims {counts[SEEN]} are seen, {counts[NOT_SEEN]} are not seen, {counts[SMALLER]} "
        f"differences are smaller than a bound ({undecided} of them undecided), and {counts[TOO_FEW]} wait for cells."
    )


def method(command: str) -> list[str]:
    """How the figures were made, as paragraphs of Markdown."""
    return [
        RULE,
        "Small models and drawn scenes are not the paper's: what is not seen here is no proof against it.",
        "The command below computes what is missing, shows the time left, and continues after a kill; `--minutes 60` "
        "ends it early, `--dry-run` prints what is left. A change of a loss, a model or an optimizer makes the cells "
        "that depend on it stale, and the command says so. `--scale paper --dry-run` prints chips, memory and days of "
        "the paper's own runs.",
        f"{versions()}. Command: `{command}`.",
    ]


def headlines(found: Sequence[Section]) -> Table:
    """The claims of the first page."""
    rows = [
        (verdict.claim, verdict.effect, verdict.interval, str(verdict.seeds or "-"), f"**{verdict.said}**")
        for section in found
        for verdict in section.verdicts
        if verdict.headline
    ]
    return Table("", ("claim", "effect", "interval", "seeds", "verdict"), rows)


def claims(section: Section) -> Table:
    """Every claim of a study with effect, interval, seeds and verdict."""
    rows = [(v.claim, v.effect, v.interval, str(v.seeds or "-"), f"**{v.said}**") for v in section.verdicts]
    return Table("", ("claim", "effect", "interval", "seeds", "verdict"), rows)


def draw_headlines(found: Sequence[Section], path: Path) -> bool:
    """Draws the differences of the first page with their intervals; whether there is any."""
    rows = [
        (v.claim, v.difference)
        for section in found
        for v in section.verdicts
        if v.headline and v.difference is not None and v.unit == "points"
    ]
    if rows:
        draw_intervals(rows, "difference, points of accuracy", path)
    return bool(rows)


def versions() -> str:
    """Returns the versions of everything that determines the figures, as one line."""
    import keras
    import tensorflow as tf

    import siglip_tf

    return (
        f"siglip_tf {siglip_tf.__version__}, TensorFlow {tf.__version__}, Keras {keras.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()}"
    )


def to_markdown(found: Sequence[Section], opening: Sequence[str], how: Sequence[str], pictures: str) -> str:
    """The report as Markdown; `pictures` is their folder as the document sees it."""
    parts = [f"# {TITLE}", *opening, _markdown_table(headlines(found))]
    if any(v.headline and v.difference for section in found for v in section.verdicts):
        parts.append(f"![{HEADLINE_CAPTION}]({pictures}/{HEADLINE})\n\n*{HEADLINE_CAPTION}*")
    advice = [f"- **{section.title}** {section.advice}" for section in found if section.advice]
    if advice:
        parts += ["## Advice", "\n".join(advice)]
    parts += ["## How to read it", *how]
    for section in found:
        parts += [f"## {section.title}", *section.paragraphs]
        parts += [f"![{caption}]({pictures}/{name})\n\n*{caption}*" for name, caption in section.pictures]
        parts.append(_markdown_table(claims(section)))
        for table in section.tables:
            parts += [table.caption, _markdown_table(table)]
        if section.advice:
            parts.append(f"**Advice:** {section.advice}")
        parts += [*section.notes, f"`{section.command}`"]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table):
    lines = [table.header, ["---"] + ["---:"] * (len(table.header) - 1), *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_html(found: Sequence[Section], opening: Sequence[str], how: Sequence[str], pictures: Path) -> str:
    """The report as one page without links; pictures are read from a folder and put into it."""
    headline = pictures / HEADLINE
    shown = [
        {
            "section": section,
            "tables": [claims(section), *section.tables],
            "pictures": [((pictures / name).read_bytes(), caption) for name, caption in section.pictures],
        }
        for section in found
    ]
    return pages.render(
        "studies.html",
        __package__,
        title=TITLE,
        opening=opening,
        headlines=headlines(found),
        headline_picture=headline.read_bytes() if headline.exists() else None,
        headline_caption=HEADLINE_CAPTION,
        method=how,
        sections=shown,
    )


def write(studies: Sequence[Study], seeds: int, root: Path, name: str) -> Path:
    """Writes the page of a sweep: `report.html` of all studies, `NAME.html` of one."""
    pictures = root / "pictures"
    found = sections(studies, seeds, root, pictures)
    draw_headlines(found, pictures / HEADLINE)
    command = _command(name, seeds)
    path = root / ("report.html" if name == "all" else f"{name}.html")
    write_file(path, to_html(found, introduction(found), method(command), pictures))
    return path


def write_document(studies: Sequence[Study], seeds: int, root: Path, document: Path = DOCUMENT) -> list[Section]:
    """Writes the Markdown and its pictures, in a folder named like it."""
    pictures = document.with_suffix("")
    found = sections(studies, seeds, root, pictures)
    draw_headlines(found, pictures / HEADLINE)
    command = _command("all", seeds)
    opening = introduction(found)
    write_file(document, to_markdown(found, opening, method(command), pictures.name))
    for picture in pictures.glob("*.png"):
        if picture.name not in document.read_text():
            picture.unlink()  # of an earlier report
    return found


def _command(name, seeds):
    return f"python -m recipes.studies.{name} --scale small" + ("" if seeds == SEEDS else f" --seeds {seeds}")
