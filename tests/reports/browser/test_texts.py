"""A report on sequences: texts as text, found by what they contain, and nothing about labels."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.errors import PresentationError
from hydragrad.reports import report
from hydragrad.reports.tokens import tokens
from hydragrad.scores import Evidence, Scores, sample_losses
from hydragrad.training import train

TEXTS = ("To be, or <b>not</b> to be", "that is\nthe question", "Whether 'tis nobler", "in the mind to suffer")


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model(batch[0]) - 1).square().sum(1)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    data = TensorDataset(torch.eye(4))
    model = nn.Linear(4, 2)
    run = train(model, loss, data, torch.optim.SGD(model.parameters(), 0.1), epochs=1, batch_size=2, out=folder / "r")
    values = torch.tensor([[0.3, -0.2, 0.1, -0.4]], dtype=torch.float64)
    scores = Scores(
        values=values,
        sample_ids=torch.arange(4),
        query_names=("validation loss",),
        query_values=torch.ones(1, dtype=torch.float64),
        evidence=Evidence(),
    )
    singles = sample_losses(data, range(4))
    explaining = Scores(
        values=values.T @ values,
        sample_ids=torch.arange(4),
        query_names=tuple(singles.names()),
        query_values=torch.ones(4, dtype=torch.float64),
        evidence=Evidence(),
        queries=(singles,),
    )
    order = values[0].argsort()
    ranked = pd.DataFrame({"sample": order, "given_label": None, "contribution": values[0][order]})
    ranked["flipped"] = ranked["sample"] == 3
    shown = {tuple(row.tolist()): text for row, text in zip(data.tensors[0], TEXTS, strict=True)}
    return report(
        run,
        scores,
        folder / "report.html",
        suspects=ranked,
        explain=explaining,
        render=lambda item: shown[tuple(item[0].tolist())],
    )


def test_texts_are_found_by_what_they_contain(opened, page):
    view = opened(page, "#suspects")
    cards = view.locator("#cards [role=option]")
    assert cards.count() == 4
    assert "in the mind to suffer" in cards.first.inner_text()  # the most harmful
    view.fill("#words", "TO")
    assert cards.count() == 2 and view.inner_text("#count") == "2 of 4 samples"
    view.fill("#words", "<b>")
    assert cards.count() == 1 and "To be, or <b>not</b> to be" in cards.first.inner_text()
    assert view.locator("#cards b").count() == 0


def test_nothing_is_said_of_labels(opened, page):
    view = opened(page, "#suspects")
    assert not view.locator("#marked").is_visible() and not view.locator("#export").is_visible()
    view.locator("#cards [role=option]").first.press("o")  # marks a label as fine where there are labels
    assert "mark" not in view.inner_text("#detail")
    assert "✗ wrong" in view.inner_text("#detail")
    for name in ("suspects", "explain", "overview", "contributions"):
        view.evaluate("view => { location.hash = view }", name)
        assert "label" not in view.inner_text("main").lower(), name


def test_a_prediction_is_explained_by_texts(opened, page):
    view = opened(page, "#explain")
    words = view.inner_text("#explained")
    assert "Helped most" in words and "in the mind to suffer" in words


@pytest.fixture(scope="module")
def page_of_tokens(tmp_path_factory):
    """Two texts of three parts each, of which one has no second."""
    folder = tmp_path_factory.mktemp("tokens")
    data = TensorDataset(torch.eye(2))
    model = nn.Linear(2, 2)
    run = train(model, loss, data, torch.optim.SGD(model.parameters(), 0.1), epochs=1, batch_size=2, out=folder / "r")
    parts = torch.tensor([[[0.5, -1.0, 0.1], [0.2, torch.nan, 0.0]]], dtype=torch.float64)
    scores = Scores(
        values=parts.nansum(-1),
        sample_ids=torch.arange(2),
        query_names=("validation loss",),
        query_values=torch.ones(1, dtype=torch.float64),
        evidence=Evidence(),
        part_contributions=parts,
    )
    texts = [["to ", "<b>be</b> ", "or"], ["not", "", " to"]]
    return report(
        run,
        scores,
        folder / "report.html",
        render=lambda item: "".join(texts[int(item[0].argmax())]),
        pieces=lambda item: texts[int(item[0].argmax())],
    )


def test_tokens_are_coloured_by_their_contributions(opened, page_of_tokens):
    view = opened(page_of_tokens, "#suspects")
    card = view.locator(".card", has_text="<b>be</b>").first
    found = card.locator(".token").evaluate_all(
        "all => all.map(one => [one.textContent, one.className, one.title, one.style.getPropertyValue('--share')])"
    )
    assert found == [
        ["to ", "token helps", "+83.5%", "50%"],
        ["<b>be</b> ", "token harms", "\u2212167%", "100%"],
        ["or", "token helps", "+16.7%", "10%"],
    ]
    colours = card.locator(".token").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert len(set(colours)) == 3 and "rgba(0, 0, 0, 0)" not in colours
    other = view.locator(".card", has_text="not to").first
    assert other.locator(".token").all_text_contents() == ["not"]


def test_pieces_that_are_no_texts_are_refused():
    scores = Scores(
        values=torch.zeros(1, 1),
        sample_ids=torch.arange(1),
        query_names=("q",),
        query_values=torch.ones(1),
        evidence=Evidence(),
        part_contributions=torch.zeros(1, 1, 1),
    )
    with pytest.raises(PresentationError, match="must return the text of every part"):
        tokens([0], [0], lambda item: [1], scores, 0, 1.0)
