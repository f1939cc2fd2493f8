"""The page: its content, that it stands alone, and that data cannot become markup."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hydragrad.errors import PresentationError, QueryError
from hydragrad.recording import Recording
from hydragrad.report import report
from hydragrad.scores import Evidence, Scores


class Page(HTMLParser):
    """Tags with their attributes, headings in order, and the text that is read."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.html = path.read_text()
        self.feed(self.html)
        assert not self.open, "every element is closed"
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def suspects(scores: Scores) -> pd.DataFrame:
    order = torch.argsort(scores.values[0])
    return pd.DataFrame(
        {
            "sample": order,
            "given_label": order % 3,
            "suggested_label": (order + 1) % 3,
            "contribution": scores.values[0][order],
            "true_label": (order + (torch.arange(40) < 10).long()) % 3,
            "flipped": torch.arange(40) < 10,
        }
    )


def picture(sample: int) -> np.ndarray:
    return np.full((8, 8), sample, np.uint8)


def test_everything_in_its_order(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    written = report(
        run,
        scores,
        report_path,
        suspects=suspects,
        picture=picture,
        classes=["cat", "dog", "eel"],
        accuracies={"noisy labels": 0.712, "cleaned": 0.841, "clean labels": 0.9},
        checks=[
            {"name": "Groups", "predicted": np.arange(9.0), "actual": 2 * np.arange(9.0), "unit": "nats"},
            {"name": "One", "predicted": 0.5, "actual": -0.25, "unit": "nats"},
        ],
        top=12,
    )
    assert written == report_path
    page = Page(report_path)
    assert page.headings == [
        "Training samples that probably carry a wrong label",
        "Accuracy",
        "Suspects",
        "How soon flipped labels are found",
        "All contributions",
        "The training",
        "Predicted against actual",
        "Groups",
        "One",
        "Evidence",
        "What the numbers mean",
        "The run",
    ]
    for text in (
        "A model (Linear) was trained on 40 samples for 3 epochs (9 steps)",
        "“validation loss”, which is 0.25 for the finished model",
        "accuracy rose from 71.2% to 84.1%",
        "40 samples ranked, most suspect first; the first 12 are shown.",
        "of the 12 shown, 10 (83.3%) really carry a flipped label",
        "given label cat → suggested label dog contribution −1.00",
        "flipped, true: dog",
        "label is right",
        "nearly the same order (Spearman 1); for each unit that the prediction rises",
        "the actual change rises by 2 (ideal: 1)",
        "Predicted +0.500, actual −0.250 (nats).",
        "every step repeated to the last bit",
        "Parameters 18",
        "lr 0.1 → 0.025; momentum 0.9",
        f"torch {torch.__version__}",
    ):
        assert text in page.text, text
    assert len(page.all("li")) == 12 + 3
    assert sum(image["alt"] == "Sample 0, labelled cat" for image in page.all("img")) == 1


def test_the_rest_of_many_cards_unfolds(
    run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path
) -> None:
    page = Page(report(run, scores, report_path, suspects=suspects))
    assert "Show the other 16" in page.text
    assert page.text.count("contribution −") + page.text.count("contribution +") == 40


def test_bare_scores_show_the_extremes(run: Recording, scores: Scores, report_path: Path) -> None:
    page = Page(report(run, scores, report_path, top=4))
    assert page.headings[:3] == [
        "Which training samples helped this model, and which harmed it",
        "Most harmful samples",
        "Most helpful samples",
    ]
    shown = [int(i) for i in re.findall(r"sample (\d+)", page.text)]
    assert shown == scores.most_harmful(4, 0) + scores.most_helpful(4, 0)
    worst = scores.most_harmful(1, 0)[0]
    assert f"given label {worst % 3} contribution −1.00 sample {worst}" in page.text
    assert "Accuracy" not in page.headings and "Predicted against actual" not in page.headings


def test_stands_alone(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    report(run, scores, report_path, suspects=suspects, picture=picture, accuracies={"a": 0.5})
    page = Page(report_path)
    assert not re.search(r"https?:|//[a-z]", page.html)
    assert not page.all("script") and not page.all("link")
    assert not any(
        "style" in attributes or any(key.startswith("on") for key in attributes) for _, attributes in page.tags
    )
    sources = [i["src"] for i in page.all("img")] + [i["srcset"] for i in page.all("source")]
    assert len(sources) > 40 and all(source and source.startswith("data:image/") for source in sources)
    assert all(image["alt"] for image in page.all("img"))
    assert report_path.stat().st_size < 1_000_000
    assert str(run.path.parent) not in page.html


def test_policy_allows_this_style_and_nothing_else(run: Recording, scores: Scores, report_path: Path) -> None:
    page = Page(report(run, scores, report_path))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_same_input_same_bytes(run: Recording, scores: Scores, suspects: pd.DataFrame, tmp_path: Path) -> None:
    first, second = (report(run, scores, tmp_path / name, suspects=suspects) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()
    report(run, scores, first)
    assert first.read_bytes() != second.read_bytes(), "an older file is replaced"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_markup_in_data_is_shown_and_not_run(
    run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path
) -> None:
    evil = '<script>alert("1")</script>'
    page = Page(
        report(
            run,
            replace(scores, query_names=(evil, "other")),
            report_path,
            suspects=suspects,
            picture=picture,
            classes=[evil, "'\" onload=x", "</style>"],
            accuracies={evil: 0.5},
            checks=[{"name": evil, "predicted": [1.0, 2, 3], "actual": [1.0, 2, 3], "unit": evil}],
            title=evil,
        )
    )
    assert not page.all("script")
    assert page.headings[0] == evil
    assert page.text.count(evil) > 10
    assert "A <b>note</b>." in page.text
    assert not any("onload" in attributes for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("evidence", "said", "unsaid"),
    [
        (
            Evidence(curvature="none"),
            ["as a ranking only", "scale not measured)", "Do not read the scale as predicted change"],
            ["by about this much"],
        ),
        (
            Evidence(
                curvature="none",
                checks=({"name": "g", "predicted": [1, 2, 3, 4, 5, 6], "actual": [6, 5, 4, 3, 2, 1]},),
            ),
            [
                "go by what the checks measured",
                "opposite order",
                "yes, by 1 check",
                "wrong by orders of magnitude",
            ],
            ["by about this much", "scale not measured", "Do not read"],
        ),
        (
            Evidence(curvature="hessian"),
            ["exact first derivatives", "by about this much", "has not been checked on this run"],
            ["Do not read", "scale not measured"],
        ),
        (
            Evidence(curvature="ggn", damping=0.5, replay_exact=False, replay_drift=2e-6, completed=False),
            ["approximate the first derivatives", "damping 0.5", "2.00 × 10⁻⁶ (relative)", "was interrupted"],
            ["exact first", "to the last bit"],
        ),
        (
            Evidence(curvature="hessian", checks=({"name": "Slope", "slope": 0.5, "n": 30},)),
            ["Slope slope 0.5; n 30"],
            ["Predicted against actual"],
        ),
    ],
)
def test_says_how_far_to_trust(
    run: Recording, scores: Scores, report_path: Path, evidence: Evidence, said: list[str], unsaid: list[str]
) -> None:
    page = Page(report(run, replace(scores, evidence=evidence), report_path))
    for text in said:
        assert text in page.text, text
    for text in unsaid:
        assert text not in page.text, text


def test_checks_that_chance_explains_are_called_so(run: Recording, scores: Scores, report_path: Path) -> None:
    check = {"name": "c", "predicted": [1, 2, 3, 4, 5], "actual": [2, 1, 5, 3, 4]}
    page = Page(report(run, scores, report_path, checks=[check, check]))
    assert page.headings.count("c") == 1, "the same check is shown once"
    assert "agree in order no better than chance could (Spearman 0.6)" in page.text


def test_another_query_by_name_or_number(run: Recording, scores: Scores, tmp_path: Path) -> None:
    by_name = report(run, scores, tmp_path / "a", query="other")
    by_number = report(run, scores, tmp_path / "b", query=1)
    assert by_name.read_bytes() == by_number.read_bytes()
    assert "“other”, which is 4" in Page(by_name).text


def test_some_samples_only(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    """Suspects that leave samples out can't tell how soon flipped labels are found."""
    page = Page(report(run, scores, report_path, suspects=suspects.head(5).set_index("sample")))
    assert "How soon flipped labels are found" not in page.headings
    assert "5 samples, most suspect first." in page.text


def test_contributions_that_are_no_numbers_are_counted(run: Recording, scores: Scores, report_path: Path) -> None:
    values = scores.values.clone()
    values[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    page = Page(report(run, replace(scores, values=values), report_path))
    assert "3 contributions are NaN or infinite" in page.text
    report(run, replace(scores, values=torch.full_like(values, torch.nan)), report_path)


def test_global_randomness_is_left_alone(run: Recording, scores: Scores, report_path: Path) -> None:
    before = torch.get_rng_state()
    report(run, scores, report_path, picture=picture)
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_what_it_cannot_show(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    with pytest.raises(PresentationError, match="top=0 came"):
        report(run, scores, report_path, top=0)
    with pytest.raises(PresentationError, match="given_label is missing"):
        report(run, scores, report_path, suspects=suspects.drop(columns="given_label"))
    with pytest.raises(PresentationError, match="classes names 2 labels"):
        report(run, scores, report_path, suspects=suspects, classes=["a", "b"])
    with pytest.raises(PresentationError, match="predicted and actual; one came with name"):
        report(run, scores, report_path, checks=[{"name": "x"}])
    with pytest.raises(PresentationError, match="fractions"):
        report(run, scores, report_path, accuracies={"a": 71.0})
    with pytest.raises(QueryError, match="'nope' came"):
        report(run, scores, report_path, query="nope")
    with pytest.raises(QueryError, match="samples up to 99; the run was trained on samples 0 to 39"):
        report(run, replace(scores, sample_ids=torch.arange(40) + 60), report_path)
    assert not report_path.exists(), "nothing half-written"


def test_no_suspects_at_all(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    page = Page(report(run, scores, report_path, suspects=suspects.head(0)))
    assert "0 samples, most suspect first." in page.text
