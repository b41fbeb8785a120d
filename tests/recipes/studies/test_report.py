import re

import pytest

from recipes.studies import bias_init, verdict, write_up
from recipes.studies.all import STUDIES
from recipes.studies.cell import write_result
from recipes.studies.study import Results
from tests.recipes.studies.invented import fill, invent


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    fill(STUDIES, 2, root)
    return root


def test_the_document_holds_every_study_and_its_pictures(computed, tmp_path):
    document = tmp_path / "docs" / "studies.md"
    sections = write_up.write_document(STUDIES, 2, computed, document)
    assert [section.title for section in sections] == [study.title for study in STUDIES]
    text = document.read_text()
    pictures = re.findall(r"!\[[^]]*\]\(studies/(\w+\.png)\)", text)
    assert len(pictures) == len(STUDIES)
    for name in pictures:
        file = document.parent / "studies" / name
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size < 100_000
    assert "2 seeds a row" in text and "TensorFlow" in text and "python -m recipes.studies.all --scale small" in text
    assert "63.0 / 82.4 / 61.0" in text and "not computed yet" not in text
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in lines.splitlines()}) == 1, lines
    assert verdict.RULE in text


def test_the_page_stands_alone(computed):
    page = write_up.write(STUDIES, 2, computed, "all").read_text()
    assert page.count('<img src="data:image/png;base64,') == len(STUDIES)
    assert "http" not in page.replace("http-equiv", "") and "<section>" in page


def test_what_is_not_computed_is_said(tmp_path):
    fill([bias_init.STUDY], 2, tmp_path, skip=3)
    document = tmp_path / "studies.md"
    (section,) = write_up.write_document(STUDIES, 2, tmp_path, document)
    assert section.notes[0].startswith("**3 of this study's 12 cells are not computed yet**")
    assert "left out here:** Batch size" in document.read_text()


def test_figures_are_means_with_errors_over_seeds(computed):
    results = Results(bias_init.rows(), 2, computed)
    values = [r["final"]["zero_shot"] for r in results.of(bias_init.BEST).values()]
    assert results.text(bias_init.BEST, "final", "zero_shot", scale=100).startswith(f"{50 * sum(values):.1f} ±")
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
