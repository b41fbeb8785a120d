import re

import pytest

from recipes.studies import bias_init, verdict, write_up
from recipes.studies.all import STUDIES
from recipes.studies.cell import write_result
from recipes.studies.study import Results
from tests.recipes.studies.invented import fill, invent

SEEDS = verdict.FIRST_LOOK


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    fill(STUDIES, SEEDS, root)
    return root


def test_the_document_has_a_first_page_and_every_study(computed, tmp_path):
    document = tmp_path / "docs" / "studies.md"
    sections = write_up.write_document(STUDIES, SEEDS, computed, document)
    assert [section.title for section in sections] == [study.title for study in STUDIES]
    text = document.read_text()
    pictures = re.findall(r"!\[[^]]*\]\(studies/(\w+\.png)\)", text)
    assert len(pictures) == len(STUDIES) + 1 and pictures[0] == write_up.HEADLINE
    for name in pictures:
        file = document.parent / "studies" / name
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size < 150_000
    first_page = text[: text.index("## ")]
    assert first_page.count("| claim |") == 1 and first_page.count("![") == 1
    headlines = [v.claim for section in sections for v in section.verdicts if v.headline]
    assert len(headlines) >= len(STUDIES) and all(claim in first_page for claim in headlines)
    assert "TensorFlow" in text and "python -m recipes.studies.all --scale small" in text
    assert "63.0 / 82.4 / 61.0" in text and "not computed yet" not in text and "learning rate 0.003" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    for lines in tables:
        assert len({line.count("|") for line in lines.splitlines()}) == 1, lines
    # Every claim with effect, interval, seeds and verdict.
    for section in sections:
        for v in section.verdicts:
            assert f"| {v.claim} | {v.effect} | {v.interval} | {v.seeds or '-'} | **{v.said}** |" in text
    assert verdict.RULE in text


def test_the_page_stands_alone(computed):
    page = write_up.write([bias_init.STUDY], SEEDS, computed, "all").read_text()
    assert page.count('<img src="data:image/png;base64,') == 2  # the study's and the first page's
    assert "http" not in page.replace("http-equiv", "") and "<section>" in page


def test_what_is_not_computed_is_said_and_nothing_is_advised(tmp_path):
    fill([bias_init.STUDY], 3, tmp_path)
    document = tmp_path / "studies.md"
    sections = {section.title: section for section in write_up.write_document(STUDIES, SEEDS, tmp_path, document)}
    section = sections.pop(bias_init.STUDY.title)
    assert section.notes[0].startswith("**10 of the 26 cells of this study are not computed yet**")
    assert all(v.outcome == verdict.TOO_FEW for v in section.verdicts if not v.evidence.startswith("10."))
    assert section.advice == "" and "## Advice" not in document.read_text()
    text = document.read_text()
    assert "3 of 5 seeds so far" in text and "**Not computed yet:** Batch size" in text
    for other in sections.values():
        assert not other.pictures and not other.tables and "is computed yet" in other.notes[0]
        assert all(
            f"| {v.claim} | no seed of 5 so far |" in text or "not measured" in v.evidence for v in other.verdicts
        )


def test_advice_follows_from_the_verdict():
    words = {"seen": "do", "not_seen": "do not", "smaller": "either"}
    low = dict.fromkeys(range(5), 0.5)
    for shift, expected in ((0.1, "do"), (-0.1, "do not"), (0.0, "either")):
        high = {seed: value + shift + 0.001 * (seed - 2) for seed, value in low.items()}
        assert verdict.advise(verdict.greater("a", high, low), **words) == expected
    undecided = {seed: 0.5 + 0.3 * (-1) ** seed for seed in low}
    for open_claim in (verdict.greater("a", undecided, low), verdict.greater("a", {}, low)):
        assert verdict.advise(open_claim, **words) == ""


def test_the_second_look_takes_the_rows_of_open_claims(tmp_path):
    study = bias_init.STUDY
    fill([study], SEEDS, tmp_path)
    open_claims = [v for v in study.findings(study.results(SEEDS, tmp_path)).verdicts if v.undecided]
    rows = {row for v in open_claims for row in v.rows}
    more = study.second_look(SEEDS, tmp_path)
    assert rows and len(more) == len(rows) * (verdict.SECOND_LOOK - SEEDS)
    assert {cell.settings["seed"] for cell in more} == set(range(SEEDS, verdict.SECOND_LOOK))
    fill([study], verdict.SECOND_LOOK, tmp_path)
    results = study.results(SEEDS, tmp_path)
    assert max(v.seeds for v in study.findings(results).verdicts) == verdict.SECOND_LOOK
    assert study.second_look(SEEDS, tmp_path) == [] and results.missing == 0


def test_figures_are_means_with_errors_over_seeds(computed):
    results = Results(bias_init.rows(), SEEDS, computed)
    values = [r["final"]["zero_shot"] for r in results.of(bias_init.BEST).values()]
    mean = 100 * sum(values) / len(values)
    assert results.text(bias_init.BEST, "final", "zero_shot", scale=100).startswith(f"{mean:.1f} ±")
    assert results.missing == 0


def test_a_run_that_diverged_keeps_its_last_figure(tmp_path):
    label = bias_init.WORST
    for seed in range(2):
        cell = bias_init.rows()[label](seed)
        result = invent(cell)
        if seed:
            result["evaluations"] = result["evaluations"][:2]
            result["curves"] = {name: curve[:3] for name, curve in result["curves"].items()}
        write_result(cell, tmp_path, result, 1.0)
    results = Results({label: bias_init.rows()[label]}, 2, tmp_path)
    pairs, means = results.over_run(label, "zero_shot")
    whole, short = (results.of(label)[seed]["evaluations"] for seed in range(2))
    assert pairs == [evaluation["examples"] for evaluation in whole]
    assert means[-1].mean == pytest.approx((whole[-1]["zero_shot"] + short[-1]["zero_shot"]) / 2)
    assert results.first(label, "zero_shot") == {0: whole[0]["zero_shot"], 1: short[0]["zero_shot"]}
    results = Results(bias_init.rows(), 2, tmp_path)
    bias_init.findings(results).pictures[0].draw(tmp_path / "curves.png")
