"""Values, several labels and classes at positions in a real browser: what is given, what is suggested, and where."""

import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from hydragrad.errors import HydragradError
from hydragrad.labelling import import_labels
from hydragrad.reports import report
from hydragrad.scores import Evidence, Scores
from hydragrad.training import train

SAMPLES = 6


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def several(model, batch):
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], reduction="none").mean(1)


def pixels(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none").mean((1, 2))


def scores_of(count):
    values = torch.linspace(-1, 1, count, dtype=torch.float64)[None]
    return Scores(
        values=values,
        sample_ids=torch.arange(count),
        query_names=("validation loss",),
        query_values=torch.ones(1, dtype=torch.float64),
        evidence=Evidence(),
    )


def ranked(kind, columns):
    frame = pd.DataFrame({"sample": range(SAMPLES), "suspicion": 0.0, "contribution": torch.linspace(-1, 1, SAMPLES)})
    frame = frame.assign(**{"evidence": 0.5, "loss": 0.1} | columns)
    frame.attrs |= {"kind": kind, "how": "Found."}
    return frame


def page_for(tmp_path, model, loss, data, frame, **options):
    run = train(model, loss, data, torch.optim.SGD(model.parameters(), 0.1), epochs=1, batch_size=3, out=tmp_path / "r")
    return run, report(run, scores_of(SAMPLES), tmp_path / "report.html", suspects=frame, **options)


def test_a_value_is_shown_with_what_was_predicted_and_can_be_given_another(opened, tmp_path):
    x = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0))
    frame = ranked(
        "values", {"given_target": 3.25, "suggested_target": 1.5, "residual": 1.75, "spread": 0.125, "evidence": 4.0}
    )
    run, path = page_for(tmp_path, nn.Linear(2, 1), squares, TensorDataset(x, x[:, :1].clone()), frame)
    page = opened(path, "#suspects")
    assert "3.25 → 1.5" in page.locator("#cards [role=option]").first.inner_text()
    detail = page.locator("#detail").inner_text()
    assert "1.5 ± 0.125" in detail and "+1.75" in detail and "4 times what is usual" in detail
    page.locator("#detail input").fill("2.5")
    page.locator("#detail").get_by_role("button", name="Fixed").click()
    page.locator("#cards [role=option]").nth(1).click()
    page.keyboard.press("o")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks (CSV)").click()
    download.value.save_as(tmp_path / "marks.csv")
    table = pd.read_csv(tmp_path / "marks.csv").set_index("sample")
    assert table["mark"].tolist() == ["fixed", "fine"] and table["target"].tolist() == [2.5, 3.25]
    assert table["given_target"].tolist() == [3.25, 3.25]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks (JSON)").click()
    download.value.save_as(tmp_path / "marks.json")
    assert json.loads((tmp_path / "marks.json").read_text())["kind"] == "values"
    with pytest.raises(HydragradError, match="holds marks of values; read are those of labels"):
        import_labels(run, tmp_path / "marks.json", classes=["a", "b"])


def test_of_several_labels_the_doubtful_class_is_shown_by_name(opened, tmp_path):
    x = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(0))
    frame = ranked("multi-label", {"given_target": 0, "suggested_target": 1, "class": 1, "disagree": 2})
    data = TensorDataset(x, (x > 0).float())
    _, path = page_for(tmp_path, nn.Linear(3, 3), several, data, frame, classes=["cat", "dog", "eel"])
    page = opened(path, "#suspects")
    assert page.locator("h1").first.text_content() == "Training samples whose target is probably wrong"
    first = page.locator("#cards [role=option]").first
    assert "dog: no → yes" in first.inner_text()
    assert "dog, given no, suggested yes" in first.get_attribute("aria-label")
    assert "2 classes" in page.locator("#detail").inner_text()
    first.focus()
    page.keyboard.press("f")
    assert "✎ fixed: yes" in first.inner_text()


def test_a_wrong_pixel_is_marked_on_its_picture(opened, tmp_path):
    x = torch.rand(SAMPLES, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, 0] > 0.5).long())
    frame = ranked(
        "positions", {"given_target": 1, "suggested_target": 0, "position": 19, "strongest": 0.9, "disagree": 0.25}
    )
    _, path = page_for(tmp_path, nn.Conv2d(1, 2, 1), pixels, data, frame)
    page = opened(path, "#suspects")
    assert "(2, 3): 1 → 0" in page.locator("#cards [role=option]").first.inner_text()
    detail = page.locator("#detail")
    assert "row 2, column 3" in detail.inner_text() and "25.0% of its positions" in detail.inner_text()
    spot = detail.locator(".spot").bounding_box()
    box = detail.locator(".spotted canvas").bounding_box()
    across = (spot["x"] + spot["width"] / 2 - box["x"]) / box["width"]
    down = (spot["y"] + spot["height"] / 2 - box["y"]) / box["height"]
    assert across == pytest.approx(3.5 / 8, abs=0.01)
    assert down == pytest.approx(0.25 + 2.5 / 4 / 2, abs=0.01), "the picture is half as high as its square"


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 5)

    def forward(self, tokens):
        return self.embedding(tokens)


def next_tokens(model, batch):
    (tokens,) = batch
    logits = model(tokens)[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)


def test_a_wrong_token_is_framed_in_its_text(opened, tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (SAMPLES, 4))
    frame = ranked(
        "positions", {"given_target": 2, "suggested_target": 3, "position": 2, "strongest": 0.9, "disagree": 0.5}
    )
    words = ["zero ", "one ", "two ", "three ", "four "]
    _, path = page_for(
        tmp_path,
        Tokens(),
        next_tokens,
        TensorDataset(tokens),
        frame,
        render=lambda item: "".join(words[token] for token in item[0]),
        pieces=lambda item: [words[token] for token in item[0][1:]],
        classes=[word.strip() for word in words],
    )
    page = opened(path, "#suspects")
    assert "at 2: two → three" in page.locator("#cards [role=option]").first.inner_text()
    for place in ("#detail", "#cards"):
        framed = page.locator(f"{place} mark").first
        assert framed.text_content() == words[tokens[0, 2]]
