"""`hydragrad bank` and `hydragrad evaluate`: one file of retrainings, and any library's scores against it."""

import json
import pickle

import numpy as np
import pytest
import torch

import hydragrad as hg
from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained


def test_a_bank_is_made_and_scores_of_any_library_are_held_against_it(hydragrad, trained, tmp_path):
    words = ("--subsets", 4, "--size", "0.1", "--repeats", 3, "--halves", 3, "--json", tmp_path / "bank.json")
    queries = ("--query", "validation", "--query", "test:3")
    code, out, err = hydragrad("bank", trained, *queries, *words, "--quiet")
    assert code == 0, err
    file = trained / "bank.safetensors"
    bank = hg.Bank.open(file)
    figures = json.loads((tmp_path / "bank.json").read_text())
    assert str(bank) in out and f"next: hydragrad evaluate {file} SCORES" in out
    assert figures["bytes"] == file.stat().st_size < 8_000 and figures["queries"] == list(bank.query_names)
    assert bank.values.shape == (2, 1, 4) and bank.repeats is not None and bank.halves is not None

    assert hydragrad("attribute", trained, "--quiet", "--curvature", "ggn")[0] == 0
    scores = trained / "scores" / "validation-ggn.safetensors"
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(2, len(bank.sample_ids)))
    np.save(tmp_path / "theirs.npy", matrix.T)
    torch.save(torch.from_numpy(matrix), tmp_path / "theirs.pt")
    files = (scores, tmp_path / "theirs.npy", tmp_path / "theirs.pt")
    code, out, err = hydragrad("evaluate", file, *files, "--json", tmp_path / "f.json", "--top", 5)
    assert code == 0, err
    figures = json.loads((tmp_path / "f.json").read_text())
    ours = hg.evaluate(hg.Scores.load(scores), bank)
    assert figures[f"{scores} lds"] == ours.lds and figures[f"{scores} scale"] == ours.scale
    assert figures["ceiling rounding"] == pytest.approx(hg.evaluate(matrix, bank).ceilings[0].lds)
    assert figures[f"{files[1]} lds"] == figures[f"{files[2]} lds"] == hg.evaluate(matrix, bank).lds
    assert figures[f"{files[1]} and {files[2]} overlap"] == 1.0
    assert f"{files[1]} and {files[2]}: 100 % of the first 5 in both" in out
    code, out, _ = hydragrad("evaluate", file, files[1], "--effect-of", "presence", "--json", tmp_path / "g.json")
    assert json.loads((tmp_path / "g.json").read_text())[f"{files[1]} lds"] == pytest.approx(
        -figures[f"{files[1]} lds"]
    )


def test_a_forecast_makes_nothing(hydragrad, trained, tmp_path):
    code, out, _ = hydragrad("bank", trained, "--out", tmp_path / "bank.safetensors", "--repeats", 2, "--dry-run")
    assert code == 0 and "a bank (42 retrainings)" in out and not (tmp_path / "bank.safetensors").exists()


def test_several_seeds_are_made_again_without_the_same_samples(hydragrad, trained, tmp_path):
    file = tmp_path / "bank.safetensors"
    code, _, err = hydragrad("bank", trained, "--subsets", 3, "--size", 5, "--seeds", 2, "--out", file, "--quiet")
    assert code == 0, err
    bank = hg.Bank.open(file)
    assert bank.seeds == 2 and len(set(bank.runs)) == 2 and bank.left_out.sum(1).tolist() == [5, 5, 5]


@pytest.mark.parametrize("size", ["0", "-1", "2.5"])
def test_sizes_that_are_none_are_refused(hydragrad, trained, size):
    code, _, err = hydragrad("bank", trained, f"--size={size}")
    assert code == 1 and "a number of samples, or a share below 1" in err


def test_files_that_hold_no_scores_are_refused(hydragrad, tmp_path):
    bank = tmp_path / "bank.safetensors"
    hg.Bank.of(torch.eye(4), torch.rand(2, 4)).save(bank)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    torch.save({"scores": torch.zeros(2, 4)}, tmp_path / "dict.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print, protocol=2))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "text.csv").write_text("1,2")
    for name, message in (
        ("missing.npy", "There are no scores at"),
        ("objects.npy", "can't be read as scores"),
        ("dict.pt", "holds one tensor, got a dict"),
        ("code.pt", "without running code"),
        ("broken.safetensors", "can't be read as scores"),
        ("text.csv", "are read from .safetensors, .npy and .pt files"),
        ("bank.safetensors", "holds no scores of hydragrad"),
    ):
        code, _, err = hydragrad("evaluate", bank, tmp_path / name)
        assert code == 1 and message in err, (name, err)


def test_removals_that_leave_the_mean_over_the_rest_have_files_of_their_own(hydragrad, trained, tmp_path):
    words = ("--curvature", "ggn", "--removal", "renormalised", "--quiet")
    code, out, err = hydragrad("attribute", trained, *words)
    assert code == 0 and "curvature ggn, renormalised" in out, err
    code, _, err = hydragrad("verify", trained, "--groups", 3, "--size", 12, *words)
    assert code == 0, err
    scores = hg.Scores.load(trained / "scores" / "validation-ggn-renormalised.safetensors")
    assert {check.removal for check in scores.evidence.checks} == {"renormalised"}
    file = tmp_path / "bank.safetensors"
    words = ("--subsets", 3, "--size", 12, "--removal", "renormalised", "--out", file, "--quiet")
    assert hydragrad("bank", trained, *words)[0] == 0
    assert list(scores.evidence.checks[0].actual) == hg.evaluate(scores, file).actual[0].tolist()
