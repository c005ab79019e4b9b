"""The report of an evaluation as page and markdown: complete, escaped, offline."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from moola.config.evaluation import Thresholds
from moola.errors import BadInput
from moola.evaluation.gates import GateContext, GateReport, blocked, gate_1_baseline, gate_2_control
from moola.evaluation.metrics import metric_intervals
from moola.evaluation.pages.report import forest_intervals, html_report, verdict_markdown

pytestmark = pytest.mark.medium  # draws

LIMITS = replace(Thresholds.load(), num_resamples=200)


class Reader(HTMLParser):
    """Collects text, attributes and unclosed tags."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links, self.badges, self.images = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if "badge" in attrs.get("class", ""):
            self.badges.append(attrs["class"].split()[1])
        if tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def evaluation():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1], 60))
    p = np.clip(0.5 + 0.3 * (y - 0.5) + 0.15 * rng.standard_normal(120), 0.02, 0.98)
    proba = np.column_stack([1 - p, p])
    half = np.full((120, 2), 0.5)
    context = GateContext(block_length=2, thresholds=LIMITS)
    reports = [
        gate_1_baseline(y, proba, half, context=context),
        gate_2_control(y, proba, {"minirocket": 0.5 * proba + 0.25}, context=context),
        blocked(4, "the <encoder> & its load report are missing"),
    ]
    return y, proba, half, reports


@pytest.fixture(scope="module")
def page(evaluation):
    y, proba, half, reports = evaluation
    text = html_report(
        reports,
        title="candidate <1> & co",
        y=y,
        predictions={"candidate": proba, "prior": half},
        block_length=2,
        class_names=["flat", "wide"],
        facts={"set": "labeled_windows/v1"},
        examples={"window 7": b"\x89PNG\r\n"},
    )
    reader = Reader()
    reader.feed(text)
    return text, reader


def test_page_is_well_formed_and_offline(page):
    text, reader = page
    assert reader.open == []
    assert reader.links
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "<script" not in text
    assert "http" not in text
    assert "@import" not in text


def test_page_escapes_what_others_wrote(page):
    text, reader = page
    assert "candidate &lt;1&gt; &amp; co" in text
    assert "<encoder>" not in text
    assert "The <encoder> & its load report are missing." in "".join(reader.text)


def test_page_shows_verdicts_metrics_and_images(page, evaluation):
    _, reader = page
    assert reader.badges == ["held", "passed", "blocked"]
    words = "".join(reader.text)
    for expected in ("labeled_windows/v1", "undefined", "log-loss", "Is deep learning needed?"):
        assert expected in words
    assert "0 data" not in words
    loss = metric_intervals(evaluation[0], evaluation[1], block_length=2)["log_loss"]
    assert f"{loss.estimate:.3f}{loss.low:.3f} \u2013 {loss.high:.3f}" in words
    alts = [image["alt"] for image in reader.images]
    assert alts == [
        *(f"difference in {m}" for m in ("log-loss", "Brier", "accuracy", "PR-AUC", "ECE")),
        "reliability, candidate",
        "reliability, prior",
        "confusion, candidate",
        "confusion, prior",
        "window 7",
    ]
    for image in reader.images[:-1]:
        data = base64.b64decode(image["src"].split(",")[1])
        assert data.startswith(b"\x89PNG")
        assert len(data) > 2000


def test_page_has_a_dark_scheme(page):
    text, _ = page
    assert "prefers-color-scheme:dark" in text
    defined = set(re.findall(r"(--[a-z]+):", text))
    assert set(re.findall(r"var\((--[a-z]+)\)", text)) <= defined


def test_same_input_same_page(evaluation):
    y, proba, _, reports = evaluation
    arguments = {"title": "a", "y": y, "predictions": {"candidate": proba}, "block_length": 2}
    assert html_report(reports, **arguments) == html_report(reports, **arguments)


def test_page_without_predictions(evaluation):
    found = html_report(
        [blocked(3, "why")], title="a", y=evaluation[0], predictions={}, block_length=2
    )
    assert "<img" not in found
    assert "Why." in found


def test_forest_takes_controls_one_by_one(evaluation):
    found = forest_intervals(evaluation[3])
    assert list(found["log_loss"]) == ["1 baseline", "2 control, minirocket"]
    assert found["log_loss"]["1 baseline"] == evaluation[3][0].figures["delta_log_loss"]


def make(gate, verdict, reason):
    return GateReport(gate=gate, name="n", question="q?", verdict=verdict, reasons=(reason,))


@pytest.mark.parametrize(
    ("reports", "start"),
    [
        ([make(1, "passed", "a")], "No gate forbids promotion (gates run: 1)."),
        (
            [make(0, "passed", "a"), make(1, "failed", "collapsed: always answers class 0")],
            "Gate 1 n: failed. Collapsed: always answers class 0.",
        ),
        ([make("promotion", "passed", "better")], "May replace Production. Better."),
        (
            [make("promotion", "inconclusive", "why")],
            "Production stays: no verdict at this number of windows. Why.",
        ),
        (
            [make(1, "failed", "a"), make("promotion", "blocked", "gate 1 must have passed")],
            "Production stays: promotion blocked. Gate 1 must have passed.",
        ),
        ([make(6, "failed", "warning")], "No gate forbids promotion"),
    ],
)
def test_markdown_leads_with_the_verdict(reports, start):
    assert verdict_markdown(reports).startswith(start)


def test_markdown_table_survives_bars_and_line_breaks():
    text = verdict_markdown([make(1, "failed", "a | b\nc")])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == "| 1 n | q? | **failed** | a \\| b c |"


def test_nothing_to_report_is_refused(evaluation):
    with pytest.raises(BadInput, match="no gate report"):
        verdict_markdown([])
    with pytest.raises(BadInput, match="no gate report"):
        html_report([], title="a", y=evaluation[0], predictions={}, block_length=2)
