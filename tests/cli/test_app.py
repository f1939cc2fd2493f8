"""The commands as a user types them, on digits and on a user's own function."""

import json
import sys

import pandas as pd
import pytest

from hydragrad import cli
from hydragrad.runs.manifest import read_manifest
from hydragrad.scores import Scores


@pytest.fixture
def hydragrad(monkeypatch, capsys):
    """Run a command line; return exit code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["hydragrad", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


TRAIN = ("train", "--data", "digits", "--model", "lenet5", "--epochs", 2, "--train-size", 120, "--quiet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory with 30 % flipped labels, made by the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hydragrad", *map(str, TRAIN), "--noise", "0.3", "--out", str(out)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    assert not exit_.value.code
    return out


def test_the_main_job(hydragrad, trained, tmp_path):
    code, out, _ = hydragrad("attribute", trained, "--query", "validation", "--query", "test:3", "--quiet")
    assert code == 0
    assert "positive helps" in out
    scores = Scores.load(trained / "scores" / "validation-none.safetensors")
    assert scores.values.shape == (1, 120)
    assert scores.label_contributions.shape == (1, 120, 10)
    assert (trained / "scores" / "test:3-none.safetensors").exists()

    code, out, _ = hydragrad("clean", trained, "--remove", "0.3", "--json", tmp_path / "clean.json", "--quiet")
    assert code == 0
    assert "suspects mean little" in " ".join(out.split())  # after two epochs of 120 samples
    figures = json.loads((tmp_path / "clean.json").read_text())
    for name in (
        "auc",
        "found_in_first_10_percent",
        "found_in_first_20_percent",
        "test_accuracy_noisy",
        "test_accuracy_cleaned",
        "test_accuracy_clean",
    ):
        assert 0 <= figures[name] <= 1, name
    assert {row["changed"] for row in figures["treatments"]} == {0, 36}
    assert figures["recommended"] in [row["treatment"] for row in figures["treatments"]]
    table = pd.read_csv(trained / "cleaned.csv")
    assert list(table.columns) == ["sample", "given_label", "label", "weight"] and len(table) == 120
    suspects = pd.read_csv(trained / "suspects.csv")
    assert suspects["suspicion"].is_monotonic_decreasing
    assert suspects["flipped"].sum() == pytest.approx(0.3 * 120, abs=10)
    assert "<html" in (trained / "report.html").read_text()

    code, out, _ = hydragrad("info", trained, "--json", tmp_path / "info.json")
    assert code == 0
    assert "61,706" in out
    assert json.loads((tmp_path / "info.json").read_text())["steps"] == 4


def test_relabelling_and_the_report(hydragrad, trained, tmp_path):
    json_file = tmp_path / "relabel.json"
    (trained / "report.html").write_text("of another way of cleaning")
    code, _, err = hydragrad("clean", trained, "--relabel", "--no-reference", "--json", json_file, "--quiet")
    assert code == 0, err
    figures = json.loads(json_file.read_text())
    assert "test_accuracy_clean" not in figures
    assert figures["suspects"].endswith("suspects-relabelled.csv")
    assert "<html" in (trained / "report-relabelled.html").read_text()
    assert (trained / "report.html").read_text() == "of another way of cleaning"
    assert hydragrad("report", trained, "--out", tmp_path / "page.html", "--quiet")[0] == 0
    assert (tmp_path / "page.html").exists()


def test_a_users_own_function(hydragrad, tmp_path):
    out = tmp_path / "own"
    assert hydragrad("train", "--from", "own_training:setup", "--epochs", 3, "--out", out, "--quiet")[0] == 0
    code, _, err = hydragrad("attribute", out, "--curvature", "hessian", "--quiet")
    assert code == 0, err
    assert Scores.load(out / "scores" / "validation-hessian.safetensors").label_contributions is None


def test_the_smaller_last_batch_is_left_out_and_a_resumed_run_must_do_so_too(hydragrad, tmp_path):
    """30 samples by 8."""
    train = ("train", "--from", "own_training:setup", "--epochs", 2, "--batch-size", 8, "--out", tmp_path, "--quiet")
    assert hydragrad(*train, "--drop-last")[0] == 0
    assert read_manifest(tmp_path).steps == 6
    code, _, err = hydragrad(*train, "--resume")
    assert code != 0 and "drop_last: True then, False now" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--out", "x"), "Say what to train"),
        (("train", "--data", "mnst", "--model", "lenet5", "--out", "x"), "choose one of: mnist, fashion"),
        (("train", "--data", "digits", "--model", "lenet", "--out", "x"), "choose one of: lenet5"),
        (("train", "--data", "digits", "--model", "lenet5", "--noise", "2", "--out", "x"), "between 0 and 1"),
        (("train", "--from", "own_training", "--out", "x"), "module:function"),
        (("train", "--from", "no_such_module:f", "--out", "x"), "no module 'no_such_module'"),
        (("train", "--from", "own_training:wrong", "--out", "x"), "it returned 2 things"),
        (("train", "--from", "own_training:missing", "--out", "x"), "has no 'missing'"),
        (("attribute", "nowhere"), "is no run directory"),
        (("info", "nowhere"), "is no run directory"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_1(hydragrad, words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = hydragrad(*words)
    assert code == 1
    assert err.startswith("error: ")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_an_existing_run_and_unknown_queries_are_refused(hydragrad, trained):
    before = (trained / "steps.jsonl").read_bytes()
    code, _, err = hydragrad(*TRAIN, "--out", trained)
    assert (code, "already holds a run" in err) == (1, True)
    assert (trained / "steps.jsonl").read_bytes() == before
    code, _, err = hydragrad("attribute", trained, "--query", "valid")
    assert code == 1
    assert "validation, test, train" in err


def test_a_dry_run_only_forecasts(hydragrad, tmp_path):
    code, out, _ = hydragrad(*TRAIN, "--out", tmp_path / "dry", "--dry-run")
    assert code == 0
    assert "forecast: training will take about" in out
    assert not (tmp_path / "dry").exists()


def test_usage_errors_exit_with_2(hydragrad):
    assert hydragrad("train", "--no-such-option")[0] == 2


def test_help_and_version(hydragrad):
    assert "hydragrad 0.1.0" in hydragrad("--version")[1]
    assert "run directory" in hydragrad("train", "--help")[1].lower()


def test_verification_goes_into_the_scores_and_is_not_made_twice(hydragrad, trained, tmp_path):
    words = ("verify", trained, "--groups", 3, "--size", "1,0.1", "--quiet", "--json", tmp_path / "verify.json")
    before = set((trained / "retrained").glob("*"))
    code, out, _ = hydragrad(*words)
    assert code == 0
    assert "Predicted changes" in out
    assert "the most harmful sample left out: predicted" in out
    assert "the 12 most helpful samples left out: predicted" in out
    figures = json.loads((tmp_path / "verify.json").read_text())
    assert figures["groups_1"] == figures["groups_12"] == 3
    assert {"lds_12", "slope_12", "lds_low_12", "sign_agreement_12"} <= figures.keys()
    assert (trained / "verify" / "validation-ggn-12.png").exists()
    checks = Scores.load(trained / "scores" / "validation-ggn.safetensors").evidence.checks
    assert len(checks) == 4
    kept = sorted((trained / "retrained").iterdir())
    assert len(set(kept) - before) == 2 * (3 + 2)
    hydragrad(*words)
    assert sorted((trained / "retrained").iterdir()) == kept
    assert len(Scores.load(trained / "scores" / "validation-ggn.safetensors").evidence.checks) == 4
    code, _, _ = hydragrad("report", trained, "--curvature", "ggn", "--out", tmp_path / "page.html")
    assert code == 0


@pytest.mark.parametrize("size", ["0", "ten", "1.5", "-0.1", "nan"])
def test_group_sizes_that_make_no_sense(hydragrad, trained, size):
    code, _, err = hydragrad("verify", trained, "--size", size)
    assert code == 1
    assert "--size" in err


def test_the_bound_and_its_note(hydragrad, trained, tmp_path):
    hydragrad("attribute", trained, "--quiet")
    words = ("bound", trained, "--samples", 4, "--points", 2, "--quiet", "--json", tmp_path / "bound.json")
    code, out, _ = hydragrad(*words)
    assert code == 0
    assert "wrong sign" in out
    figures = json.loads((tmp_path / "bound.json").read_text())
    assert 0 < figures["error"] <= figures["measured_bound"] <= figures["bound"]
    assert (trained / "bound.png").exists()
    notes = Scores.load(trained / "scores" / "validation-none.safetensors").evidence.notes
    assert any(note.kind == "approximation error" and "Spearman" in note.text for note in notes)


@pytest.mark.parametrize("command", ["verify", "bound"])
def test_forecasts_of_the_checks(hydragrad, trained, command):
    code, out, _ = hydragrad(command, trained, "--dry-run")
    assert code == 0
    assert "forecast" in out


def test_averaged_and_damped_scores_have_files_of_their_own(hydragrad, trained):
    words = ("--curvature", "ggn", "--damping", 0.5, "--replays", 2, "--quiet")
    code, out, _ = hydragrad("attribute", trained, *words)
    assert code == 0
    assert "2 replays" in out
    code, _, _ = hydragrad("verify", trained, "--groups", 3, "--size", "12", *words)
    assert code == 0
    scores = Scores.load(trained / "scores" / "validation-ggn-damping0.5-replays2.safetensors")
    assert scores.evidence.replays == 2
    assert scores.evidence.damping == 0.5
    assert len(scores.evidence.checks) == 2
    assert (trained / "verify" / "validation-ggn-damping0.5-replays2-12.png").exists()
