import re
from html.parser import HTMLParser

import pytest

from siglip_tf.experiments.report.charts import Series, line_chart
from siglip_tf.experiments.report.page import Asked, Figure, Found, Mistake, Page
from siglip_tf.experiments.report.run_report import show, tiles_of

JPEG, PNG = b"\xff\xd8\xff\xe0picture", b"\x89PNG\r\n\x1a\npicture"
METRICS = [
    {"step": step, "loss": 10 / step, "gradient_norm": 1.5, "temperature": 10.0, "bias": -10.0 + step / 100}
    for step in range(1, 50)
]


def report(**changes):
    arguments = {
        "title": "A <run> & its end",
        "summary": "Two towers.",
        "tiles": [("zero-shot", "93.0%")],
        "figures": [
            Figure("Zero-shot", 0.93, 0.01, 0.9),
            Figure("R@1", 0.015, 0.001, 0.02),
            Figure("R@5", 0.5, 0.005, note="without goal", baselines={"nearest neighbor": 0.6}),
        ],
        "metrics": METRICS,
        "found": [Found("a <b>bold</b> query", [(JPEG, True), (PNG, False)])],
        "asked": [Asked(JPEG, "a star", [{"label": "a star", "share": 0.75, "probability": 1.5e-3}])],
        "mistakes": [Mistake(PNG, "a ring", "a circle")],
        "facts": [("Command", "make quickstart")],
        "faults": [("missing image", 3)],
        "advice": ["Train longer."],
        "warning": "The baseline wins.",
    }
    return Page(**{**arguments, **changes})


VOID = {"meta", "img", "line", "polyline", "br"}


class Structure(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def structure(page):
    parsed = Structure()
    parsed.feed(page)
    assert not parsed.open
    return parsed


def test_the_page_is_well_formed_and_holds_everything_itself():
    page = report().to_html()
    parsed = structure(page)
    assert parsed.links and all(link.startswith("data:image/") for link in parsed.links)
    assert {link[:15] for link in parsed.links} == {"data:image/jpeg", "data:image/png;"}
    assert "<script" not in page and "url(" not in page and "@import" not in page
    assert "A &lt;run&gt; &amp; its end" in page and "a &lt;b&gt;bold&lt;/b&gt; query" in page


def test_figures_stand_beside_chance_and_goal():
    page = report().to_html()
    assert page.count(">reached<") == 1 and page.count(">missed<") == 1
    for text in ("93.0%", "1.5%", "93 &times;", "15 &times;", "90.0%", "1.5e-03", "75.0%", "nearest neighbor", "60.0%"):
        assert text in page


def test_curves_are_drawn_where_there_are_metrics_and_sections_vanish_without_content():
    assert report().to_html().count("<svg") == 4
    bare = report(
        metrics=[], found=[], asked=[], mistakes=[], facts=[], figures=[], faults=[], advice=[], warning=""
    ).to_html()
    assert structure(bare).tags.count("section") == 0
    gaps = [*METRICS, {"step": 50, "loss": None, "gradient_norm": 0.0}]
    assert report(metrics=gaps).to_html().count("<svg") == 4


def test_the_page_is_written_whole(tmp_path):
    report().write(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report().to_html()


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("values", [[1, 2, 3], [5, 5, 5], [0.001, 1000, 3], [7], [123456.0, 123457.0, 123456.5]])
def test_points_lie_inside_the_chart_in_the_right_order(values, log_y):
    svg = line_chart([Series("a", range(len(values)), values)], "step", log_y)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    by_value = sorted(zip(values, [y for _, y in points], strict=True))
    assert [y for _, y in by_value] == sorted((y for _, y in points), reverse=True)
    ticks = [float(t.replace(",", "")) for t in re.findall(r'text-anchor="end">([-\d.,e]+)<', svg)]
    assert len(ticks) >= 2 and ticks == sorted(ticks)
    assert ticks[0] <= min(values) * 1.001 and ticks[-1] >= max(values) * 0.999


def test_no_points_is_said():
    assert "No points" in line_chart([], "step")


def test_the_speed_of_a_run_is_told_and_shown():
    run, said = {"pairs": 76_800, "seconds": 120}, []
    show(run, said.append)
    assert said == ["76,800 pairs in 120 s, 640 images/s"]
    assert [value for _, value in tiles_of([Figure("Zero-shot accuracy over 9 classes", 0.5, 0.1)], run)] == [
        "50.0%",
        "2 min",
        "640",
    ]
