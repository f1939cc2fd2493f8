"""Texts on the command line: the main job, what a person reads, and what is refused."""

import json
import re
import sys
from dataclasses import replace

import pytest
import torch

import hydragrad as hg
import small_texts
from cli.test_app import hydragrad as hydragrad
from hydragrad import cli
from hydragrad.cli.commands import demo_check, demo_text

SMALL = ("--layers", 1, "--heads", 2, "--width", 8, "--train-size", 40, "--validation-size", 5, "--epochs", 1)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = small_texts.install(patch, tmp_path_factory.mktemp("data") / "text")
        patch.setenv("HYDRAGRAD_DATA", str(folder))
        yield folder


def trained_on(data, out):
    with pytest.MonkeyPatch.context() as patch:
        words = ("hydragrad", "train", "--data", data, "--model", "gpt", *SMALL, "--out", out, "--quiet")
        patch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    assert not exit_.value.code
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    """A run on names."""
    return trained_on("names", tmp_path_factory.mktemp("runs") / "names")


@pytest.fixture(scope="module")
def play(tmp_path_factory, folder):
    """A run on Shakespeare."""
    return trained_on("shakespeare", tmp_path_factory.mktemp("runs") / "play")


def test_a_training_ends_with_the_loss_and_the_accuracy_of_characters(hydragrad, tmp_path):
    words = ("train", "--data", "names", "--model", "gpt", *SMALL, "--out", tmp_path / "run")
    code, out, err = hydragrad(*words, "--json", tmp_path / "figures.json")
    assert code == 0, err
    assert "test loss, nats a character" in out and "test next-character accuracy" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 2 < figures["test_loss"] < 4 and 0 <= figures["test_accuracy"] < 1
    assert {"validation_loss", "validation_accuracy"} <= figures.keys()
    code, out, _ = hydragrad("info", tmp_path / "run")
    assert code == 0 and "'width': 8" in out and "adamw" in out and "clip_norm" in out


def test_a_run_is_attributed_and_the_next_command_is_named(hydragrad, run):
    code, out, err = hydragrad("attribute", run, "--curvature", "ggn")
    assert code == 0, err
    assert f"next: hydragrad report {run} --curvature ggn" in out


@pytest.mark.parametrize("curvature", ["none", "hessian"])
def test_the_texts_that_moved_a_prediction_are_shown(hydragrad, run, tmp_path, curvature):
    words = ("explain", run, "--test", 3, "--top", 2, "--curvature", curvature, "--json", tmp_path / "figures")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    figures = json.loads((tmp_path / "figures").read_text())
    assert len(figures["most_helpful"]) == 2 and "label" not in out
    assert ("in percent of the sum of all sizes" in out) == (curvature == "none")
    assert (run / "scores" / f"test:3-{curvature}.safetensors").exists()
    every = set(small_texts.names().split())
    rows = [
        line.replace(" %", "%").split(maxsplit=2)
        for line in out.splitlines()
        if line.split()[:1] and line.split()[0].isdigit()
    ]
    texts = [re.sub(r"\[(.) [-+][^]]*\]", r"\1", row[-1].strip()) for row in rows]
    assert len(rows) == 4 and all(text.removesuffix(".") in every for text in texts)
    assert all(row[-1].count("[") == 3 for row in rows), "the strongest characters have their numbers"
    assert re.search(r"loss by token +\S*\[. \d\.\d\d\]", out)


def test_the_contributions_of_tokens_are_saved_and_add_up(hydragrad, run, play):
    for folder in (run, play):
        code, out, err = hydragrad("attribute", folder, "--parts", "--curvature", "ggn")
        assert code == 0, err
        assert "tokens: + helps, - harms" in out
        scores = hg.Scores.load(folder / "scores" / "validation-ggn.safetensors")
        assert torch.allclose(scores.part_contributions.nansum(-1), scores.values, rtol=1e-4, atol=1e-9)
    code, _, err = hydragrad("attribute", run, "--parts", "--seeds", 2)
    assert code == 1 and "Contributions of parts are those of one run; leave out --parts, or --seeds." in err


def test_ends_of_lines_are_shown_as_such(hydragrad, play):
    code, out, err = hydragrad("explain", play, "--test", 0, "--top", 1)
    assert code == 0, err
    assert "Curvature hessian" in out, "the default of texts trained by AdamW"
    assert "⏎" in out and "Resolved" in out


def test_the_report_shows_texts_and_no_labels(hydragrad, play):
    code, _, err = hydragrad("report", play)
    assert code == 0, err
    page = (play / "report.html").read_text()
    assert "First Citizen" in page
    assert "<b>resolved</b>" not in page, "markup in a text is not markup of the page"
    assert "Which training samples helped this model" in page


def test_export_is_refused_since_there_are_no_labels(hydragrad, play, tmp_path):
    code, _, err = hydragrad("export", play, "--out", tmp_path / "labels.csv")
    assert code == 1 and "has no labels to mend. See its most harmful samples: hydragrad report" in err


def test_cleaning_is_refused_since_there_are_no_labels(hydragrad, play):
    code, _, err = hydragrad("clean", play)
    assert (
        code == 1
        and f"shakespeare has no labels to clean. See its most harmful samples: hydragrad report {play}" in err
    )


def test_a_setup_is_checked(hydragrad):
    code, out, err = hydragrad("check", "--data", "names", "--model", "gpt", *SMALL[:8])
    assert code == 0, err
    assert "GPT" in out and "to norm 1" in out


def test_a_run_is_verified(hydragrad, run, tmp_path):
    words = ("verify", run, "--groups", 3, "--size", 4, "--curvature", "hessian", "--json", tmp_path / "a")
    code, _, err = hydragrad(*words)
    assert code == 0, err
    assert json.loads((tmp_path / "a").read_text())["query"] == "validation"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "digits", "--model", "gpt"), "digits is images, which gpt can't read; choose one of: lenet5"),
        (("--data", "names", "--model", "lenet5"), "names is text, which lenet5 can't read; choose one of: gpt"),
        (("--data", "digits", "--model", "lenet5", "--layers", 3), "layers: only a gpt has sizes to choose"),
        (("--data", "shakespeare", "--model", "gpt", "--noise", 0.1), "--noise"),
        (("--data", "names", "--model", "gpt", "--width", 9), "multiple of its heads"),
        (("--data", "names", "--model", "gpt", "--block-size", 9), "there is no block size"),
        (("--from", "a:b", "--layers", 3), "the sizes of a gpt are for data sets by name"),
    ],
)
def test_what_does_not_fit_is_refused(hydragrad, tmp_path, words, message):
    code, _, err = hydragrad("train", *words, "--out", tmp_path / "run")
    assert code == 1 and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_for_more_epochs_than_its_schedule_has(hydragrad, run):
    words = ("train", "--data", "names", "--model", "gpt", *SMALL[:-1], 2, "--out", run, "--resume")
    code, _, err = hydragrad(*words)
    assert code == 1 and "epochs: 1 then, 2 now" in err


def test_the_demo_tells_the_whole_story_and_can_be_repeated(hydragrad, tmp_path, monkeypatch):
    small = replace(
        demo_text.SETTINGS, train_size=60, validation_size=9, test_size=9, epochs=1, sizes={"width": 8, "layers": 1}
    )
    monkeypatch.setattr(demo_check, "WORKERS", 1)
    for name, value in {"SETTINGS": small, "GROUPS": (3, 6)}.items():
        monkeypatch.setattr(demo_text, name, value)
    words = ("demo", "--text", "--out", tmp_path / "demo", "--quiet", "--json", tmp_path / "figures.json")
    code, out, err = hydragrad(*words)
    assert code == 0, err
    assert "without the 6 most harmful" in out and "Names that it invents" in out and "helped most by" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < figures["auc"] < 1 and figures["actual_4"] != figures["actual_5"]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "6 of the 60 samples are wrong on purpose" in page and "How soon wrong samples are found" in page
    hydragrad(*words)
    assert json.loads((tmp_path / "figures.json").read_text()) == figures, "the same figures the second time"
    code, _, err = hydragrad("report", tmp_path / "demo", "--curvature", "ggn", "--out", tmp_path / "again.html")
    assert code == 0 and "6 of the 60 samples are wrong on purpose" in (tmp_path / "again.html").read_text()
