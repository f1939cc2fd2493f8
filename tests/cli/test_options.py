"""Options that several commands share."""

import sys

import pytest

from cli.test_app import hydragrad as hydragrad
from hydragrad import cli
from hydragrad.scores import Scores

WORDS = ("train", "--data", "digits", "--model", "lenet5", "--train-size", 40, "--epochs", 1, "--quiet")


@pytest.fixture(scope="module")
def adamw(tmp_path_factory):
    """A run of AdamW."""
    run = tmp_path_factory.mktemp("adamw") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hydragrad", *map(str, WORDS), "--optimizer", "adamw", "--out", str(run)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    assert not exit_.value.code
    return run


def test_smoothing_changes_the_scores_of_adamw_and_the_name_of_their_file(hydragrad, adamw):
    for words in ((), ("--smoothing", 0), ("--smoothing", 0.25)):
        code, _, err = hydragrad("attribute", adamw, *words, "--quiet")
        assert code == 0, err
    files = [adamw / "scores" / f"validation-none{end}.safetensors" for end in ("", "-smoothing0", "-smoothing0.25")]
    default, exact, smoothed = (Scores.load(file) for file in files)
    assert [scores.evidence.smoothing for scores in (default, exact, smoothed)] == [None, 0.0, 0.25]
    assert not default.values.allclose(exact.values) and not default.values.allclose(smoothed.values)


@pytest.mark.parametrize(
    "words",
    [
        ("report",),
        ("clean", "--remove", 0.1),
        ("verify", "--curvature", "none", "--groups", 3, "--size", 10),
    ],
)
def test_every_command_that_needs_scores_takes_smoothing(hydragrad, adamw, words):
    query = "validation-half" if words[0] == "clean" else "validation"
    file = adamw / "scores" / f"{query}-none-smoothing0.5.safetensors"
    file.unlink(missing_ok=True)
    code, _, err = hydragrad(words[0], adamw, *words[1:], "--smoothing", 0.5, "--quiet")
    assert code == 0, err
    assert Scores.load(file).evidence.smoothing == 0.5


def test_a_negative_smoothing_is_refused(hydragrad, adamw):
    code, _, err = hydragrad("attribute", adamw, "--smoothing", -1, "--quiet")
    assert code == 2 and "--smoothing" in err
