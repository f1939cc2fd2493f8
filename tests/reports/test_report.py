"""The page: its content, that it stands alone, and that data cannot become markup."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hydragrad.errors import PresentationError, QueryError
from hydragrad.replay import Recording
from hydragrad.reports import report
from hydragrad.scores import Check, Evidence, Method, Note, Scores


class Page(HTMLParser):
    """Tags with their attributes, headings in order, the text that is read without a script, and the data."""

    VOID = ("meta", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.html = path.read_text()
        self.feed(self.html)
        assert not self.open, "every element is closed"
        self.text = " ".join(" ".join(self.pieces).split())
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif "style" not in self.open:
            self.pieces.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def column(self, *path: str) -> np.ndarray:
        """A packed column of the data, unpacked."""
        packed = self.data
        for name in path:
            packed = packed[name]
        ((kind, text),) = packed.items()
        return np.frombuffer(base64.b64decode(text), f"<{kind}")


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


def picture(item: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    return np.full((8, 8), int(item[1]), np.uint8)


def test_everything_in_its_order(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    written = report(
        run,
        scores,
        report_path,
        suspects=suspects,
        render=picture,
        classes=["cat", "dog", "eel"],
        accuracies={"labels as given": 0.712, "cleaned": 0.841, "true labels": 0.9},
        checks=[
            {"name": "Groups", "predicted": np.arange(9.0), "actual": 2 * np.arange(9.0), "unit": "nats"},
            {"name": "One", "predicted": 0.5, "actual": -0.25, "unit": "nats"},
        ],
        thumbnails=12,
    )
    assert written == report_path
    page = Page(report_path)
    assert page.headings == [
        "Training samples that probably carry a wrong label",
        "Accuracy",
        "How soon wrong labels are found",
        "The training",
        "Evidence",
        "Predicted against actual",
        "What the numbers mean",
        "The run",
        "Suspects",
        "Explain",
        "Contributions",
    ]
    for text in (
        "A model (Linear) was trained on 40 samples for 3 epochs (9 steps)",
        "“validation loss”, which is 0.25 for the finished model",
        "accuracy rose from 71.2% to 84.1%",
        "10 of the 40 labels are wrong, and of the 10 most suspect samples 10 (100.0%) really carry a wrong one",
        "nearly the same order (Spearman 1); for each unit that the prediction rises",
        "the actual change rises by 2 (ideal: 1)",
        "Predicted +0.500, actual −0.250 (nats).",
        "every step was repeated to the last bit",
        "Parameters 18",
        "lr 0.1 → 0.025; momentum 0.9",
        f"torch {torch.__version__}",
    ):
        assert text in page.text, text


def test_every_sample_is_in_the_data(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    report(run, scores, report_path, suspects=suspects, render=picture, classes=["cat", "dog", "eel"], thumbnails=3)
    page = Page(report_path)
    assert page.column("samples", "id").tolist() == suspects["sample"].tolist()
    np.testing.assert_allclose(
        page.column("samples", "contribution"),
        100 * suspects["contribution"] / scores.values[0].abs().sum().item(),
        rtol=1e-6,
    )
    names = page.data["labels"]["names"]
    assert names == ["cat", "dog", "eel"] and page.data["labels"]["values"] == [0, 1, 2]
    for column in ("given", "suggested", "true"):
        assert page.column("samples", column).tolist() == suspects[f"{column}_label"].tolist()
    assert page.column("samples", "flipped").tolist() == suspects["flipped"].tolist()
    model, x = run.trained_model(), run.train_set.tensors[0]
    chances = model(x).softmax(1)[torch.tensor(suspects["sample"].to_numpy())]
    for column in ("given", "suggested"):
        labels = torch.tensor(suspects[f"{column}_label"].to_numpy())
        np.testing.assert_allclose(
            page.column("samples", f"sure_{column}"), chances.gather(1, labels[:, None])[:, 0], 1e-5
        )
    shown = page.column("shown", "train", "ids").tolist()
    assert shown[:3] == suspects["sample"].tolist()[:3] and len(shown) < 40
    assert page.data["run"] == {"name": "tiny", "digest": run.digest, "samples": 40}


def test_bare_scores_are_ranked_by_contribution(run: Recording, scores: Scores, report_path: Path) -> None:
    page = Page(report(run, scores, report_path))
    assert page.headings[0] == "Which training samples helped this model, and which harmed it"
    assert page.column("samples", "id").tolist() == scores.most_harmful(40, 0)
    assert page.column("samples", "given").tolist() == [i % 3 for i in scores.most_harmful(40, 0)]
    assert "suggested" not in page.data["samples"]
    assert "Accuracy" not in page.headings and "Predicted against actual" not in page.headings
    assert "test_set=test_set" in page.data["explain"]["how"]


def test_stands_alone(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    report(run, scores, report_path, suspects=suspects, render=picture, accuracies={"a": 0.5})
    page = Page(report_path)
    addresses = re.findall(r"""["'(]((?:https?:)?//[a-z][^"')]*)""", page.html)
    assert set(addresses) == {"http://www.w3.org/2000/svg"}, "a namespace is no address"
    assert not page.all("link") and not page.all("img") and not page.all("iframe")
    assert not any("src" in attributes or "srcset" in attributes for _, attributes in page.tags)
    assert not any(
        "style" in attributes or any(key.startswith("on") for key in attributes) for _, attributes in page.tags
    )
    assert [attributes.get("type") for attributes in page.all("script")] == ["application/json", None]
    assert report_path.stat().st_size < 200_000
    assert str(run.path.parent) not in page.html


def test_policy_allows_this_script_and_style_and_nothing_else(
    run: Recording, scores: Scores, report_path: Path
) -> None:
    page = Page(report(run, scores, report_path))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (page.scripts[1], style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digests[0]}'; style-src 'sha256-{digests[1]}'; img-src data: blob:; "
        f"base-uri 'none'; form-action 'none'"
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
    evil = '</script><script>alert("1")</script><!--'
    page = Page(
        report(
            run,
            replace(scores, query_names=(evil, "other")),
            report_path,
            suspects=suspects,
            render=lambda item: evil,
            classes=[evil, "'\" onload=x", "</style>"],
            accuracies={evil: 0.5},
            checks=[{"name": evil, "predicted": [1.0, 2, 3], "actual": [1.0, 2, 3], "unit": evil}],
            title=evil,
        )
    )
    assert len(page.all("script")) == 2
    assert page.headings[0] == evil
    assert page.text.count(evil) > 3
    assert page.data["labels"]["names"][0] == evil and page.data["shown"]["train"]["texts"][0] == evil
    assert "A <b>note</b>." in page.text
    assert not any("onload" in attributes for _, attributes in page.tags)


@pytest.mark.parametrize(
    ("evidence", "said", "unsaid"),
    [
        (
            Evidence(),
            ["as a ranking only", "in percent of the sum of all sizes", "Do not read the scale as predicted change"],
            ["by about this much"],
        ),
        (
            Evidence(
                checks=(Check(name="g", predicted=(1, 2, 3, 4, 5, 6), actual=(6, 5, 4, 3, 2, 1)),),
            ),
            [
                "go by what the checks measured",
                "opposite order",
                "yes, by 1 check",
                "wrong by orders of magnitude",
            ],
            ["by about this much", "has not been measured", "Do not read"],
        ),
        (
            Evidence(method=Method.of("hessian")),
            ["exact first derivatives", "by about this much", "has not been checked on this run"],
            ["Do not read", "in percent of the sum"],
        ),
        (
            Evidence(method=Method.of("ggn", damping=0.5), replay_exact=False, replay_drift=2e-6, completed=False),
            [
                "approximate the first derivatives",
                "damping 0.5",
                "at most 2.00 × 10⁻⁶ of their size",
                "was interrupted",
            ],
            ["exact first", "to the last bit"],
        ),
        (
            Evidence(route="influence", notes=(Note("influence", "Influence functions, damping 0.5."),)),
            ["come from single checkpoints", "influence functions take no derivative of the run", "damping 0.5"],
            ["leave out the curvature", "dropped (HYDRA)", "Steps differentiated", "to the last bit"],
        ),
        (
            Evidence(method=Method.of("hessian"), checks=(Check(name="Slope", slope=0.5, groups=30),)),
            ["Slope groups 30; slope 0.5"],
            ["Predicted against actual"],
        ),
    ],
)
def test_says_how_far_to_trust(
    run: Recording, scores: Scores, report_path: Path, evidence: Evidence, said: list[str], unsaid: list[str]
) -> None:
    page = Page(report(run, replace(scores, evidence=evidence), report_path))
    told = f"{page.text} {page.data['column']}"
    for text in said:
        assert text in told, text
    for text in unsaid:
        assert text not in told, text


def test_checks_that_chance_explains_are_called_so(run: Recording, scores: Scores, report_path: Path) -> None:
    check = {"name": "c", "predicted": [1, 2, 3, 4, 5], "actual": [2, 1, 5, 3, 4]}
    page = Page(report(run, scores, report_path, checks=[check, check]))
    assert len(page.data["checks"]) == 1, "the same check is shown once"
    assert "agree in order no better than by chance (Spearman 0.6)" in page.text


def test_another_query_by_name_or_number(run: Recording, scores: Scores, tmp_path: Path) -> None:
    by_name = report(run, scores, tmp_path / "a", query="other")
    by_number = report(run, scores, tmp_path / "b", query=1)
    assert by_name.read_bytes() == by_number.read_bytes()
    assert "“other”, which is 4" in Page(by_name).text


def test_suspects_that_leave_samples_out_are_followed_by_the_others(
    run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path
) -> None:
    page = Page(report(run, scores, report_path, suspects=suspects.tail(5).set_index("sample")))
    ids = page.column("samples", "id").tolist()
    assert ids == suspects["sample"].tolist()[-5:] + suspects["sample"].tolist()[:-5]
    assert (page.column("samples", "suggested")[5:] == 0xFFFF).all()
    assert page.data["detection"] is None, "which labels are wrong is not known of all"


def test_contributions_that_are_no_numbers_do_not_hurt(run: Recording, scores: Scores, report_path: Path) -> None:
    values = scores.values.clone()
    values[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    page = Page(report(run, replace(scores, values=values), report_path))
    assert np.isfinite(page.column("samples", "contribution")).sum() == 37
    report(run, replace(scores, values=torch.full_like(values, torch.nan)), report_path)


def test_global_randomness_is_left_alone(run: Recording, scores: Scores, report_path: Path) -> None:
    before = torch.get_rng_state()
    report(run, scores, report_path, render=picture)
    assert torch.equal(before, torch.get_rng_state())


def test_refuses_what_it_cannot_show(run: Recording, scores: Scores, suspects: pd.DataFrame, report_path: Path) -> None:
    with pytest.raises(PresentationError, match="thumbnails must not be negative"):
        report(run, scores, report_path, thumbnails=-1)
    with pytest.raises(PresentationError, match="given_label is missing"):
        report(run, scores, report_path, suspects=suspects.drop(columns="given_label"))
    with pytest.raises(PresentationError, match="listed once"):
        report(run, scores, report_path, suspects=pd.concat([suspects, suspects.head(1)]))
    with pytest.raises(PresentationError, match="classes names 2 labels"):
        report(run, scores, report_path, suspects=suspects, classes=["a", "b"])
    with pytest.raises(PresentationError, match="predicted and actual, got name"):
        report(run, scores, report_path, checks=[{"name": "x"}])
    with pytest.raises(PresentationError, match="fractions"):
        report(run, scores, report_path, accuracies={"a": 71.0})
    with pytest.raises(PresentationError, match=r"render\(item\) must return a PIL image.*, got int"):
        report(run, scores, report_path, render=lambda item: 3)
    with pytest.raises(QueryError, match="got 'nope'"):
        report(run, scores, report_path, query="nope")
    with pytest.raises(QueryError, match="samples up to 99; the run was trained on samples 0 to 39"):
        report(run, replace(scores, sample_ids=torch.arange(40) + 60), report_path)
    with pytest.raises(QueryError, match="contributions to losses of single samples, got scores of validation"):
        report(run, scores, report_path, explain=scores)
    assert not report_path.exists(), "nothing half-written"
