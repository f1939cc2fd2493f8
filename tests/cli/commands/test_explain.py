"""`hydragrad explain` as a user types it."""

import json

from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained


def test_a_prediction_is_explained_and_the_store_is_kept(hydragrad, trained, tmp_path):
    code, out, err = hydragrad(
        "explain", trained, "--test", 7, "--top", 3, "--projection", 64, "--json", tmp_path / "a"
    )
    assert code == 0, err
    assert "helped most" in out and "harmed most" in out and "read the ranking" in out and "contribution" in out
    figures = json.loads((tmp_path / "a").read_text())
    assert figures["sample"] == "test:7" and len(figures["most_helpful"]) == len(figures["most_harmful"]) == 3
    assert figures["helpful_contributions"][0] > 0 > figures["harmful_contributions"][0]
    assert 0 <= figures["probability"] <= 1
    assert figures["columns"] <= 64 and "±" in out and "estimates" in out
    assert all(error > 0 for error in figures["helpful_standard_errors"] + figures["harmful_standard_errors"])
    written = (trained / "store" / "rows.npy").stat().st_mtime_ns
    code, out, _ = hydragrad("explain", trained, "--validation", 3, "--projection", 64)
    assert code == 0 and "building" not in out
    assert (trained / "store" / "rows.npy").stat().st_mtime_ns == written
    code, out, _ = hydragrad("explain", trained, "--test", 7)  # with the store's own projection
    assert code == 0 and "building" not in out
    code, _, err = hydragrad("explain", trained, "--test", 7, "--projection", 32)
    assert code == 1 and "--projection 64" in err
    code, _, err = hydragrad("explain", trained, "--test", 7, "--batch-statistics", "frozen")
    assert code == 1 and "--batch-statistics exact" in err
    code, _, err = hydragrad("explain", trained, "--test", 7, "--batch-statistics", "thawed")
    assert code == 1 and "exact, frozen" in err


def test_mistakes_get_an_error_without_a_traceback(hydragrad, trained):
    for words, message in (((), "--test NUMBER"), (("--test", 999_999), "has samples 0 to")):
        code, _, err = hydragrad("explain", trained, *words)
        assert code == 1 and message in err and "Traceback" not in err


def test_a_run_of_adamw_is_attributed_to_the_sample_and_the_scores_saved(hydragrad, tmp_path):
    run = tmp_path / "run"
    words = ("--data", "digits", "--model", "lenet5", "--optimizer", "adamw", "--train-size", 60, "--epochs", 1)
    assert hydragrad("train", *words, "--out", run)[0] == 0
    for _ in range(2):
        code, out, err = hydragrad("explain", run, "--test", 7, "--json", tmp_path / "a")
        assert code == 0 and "helped most" in out, err
    figures = json.loads((tmp_path / "a").read_text())
    assert len(figures["most_helpful"]) == 5 and "columns" not in figures
    assert [file.name for file in (run / "scores").iterdir()] == ["test:7-none.safetensors"]
    code, out, _ = hydragrad("bound", run, "--samples", 3, "--points", 2, "--json", tmp_path / "b")
    assert code == 0 and "There is no bound" in out
    assert json.loads((tmp_path / "b").read_text())["bound"] is None
