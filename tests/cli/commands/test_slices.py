"""`--part`, `--executor`: slices of one command meet in the run directory, and each says what became of it."""

import json

from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained
from hydragrad.execution.claims import Claims
from hydragrad.runs.kept import Kept


def test_slices_of_verify_meet_and_the_last_one_says_what_the_whole_command_says(hydragrad, trained, tmp_path):
    words = ("verify", trained, "--groups", 3, "--size", 12, "--curvature", "none", "--quiet")
    first = []
    real = Kept.write

    def note(self, *tensors):
        first.append(self.path)
        return real(self, *tensors)

    Kept.write = note
    try:
        assert hydragrad(*words, "--part", "1/2", "--json", tmp_path / "alone.json")[0] == 0
    finally:
        Kept.write = real
    whole = json.loads((tmp_path / "alone.json").read_text())
    retrained = [path for path in first if path.parent.name == "retrained"]
    assert len(retrained) == 5
    for path in retrained[:2]:
        path.unlink()
    with Claims(retrained[0].parent) as others:
        assert others.take(retrained[0].stem)
        code, out, err = hydragrad(*words, "--part", "2/2", "--json", tmp_path / "waiting.json")
    assert code == 0, err
    assert "Part 2/2 is done; 1 of 5 retrainings are still missing" in out
    assert not (tmp_path / "waiting.json").exists()
    assert hydragrad(*words, "--part", "1/2", "--json", tmp_path / "last.json")[0] == 0
    assert json.loads((tmp_path / "last.json").read_text()) == whole


def test_a_late_slice_of_attribute_finds_the_scores(hydragrad, trained):
    words = ("attribute", trained, "--query", "test:3", "--curvature", "none", "--quiet", "--no-labels")
    assert hydragrad(*words, "--part", "1/2")[0] == 0
    file = trained / "scores" / "test:3-none.safetensors"
    written = file.stat().st_mtime_ns
    assert hydragrad(*words, "--part", "2/2")[0] == 0
    assert file.stat().st_mtime_ns == written
    assert list((trained / "scores").glob("partial-*"))
    assert hydragrad(*words)[0] == 0
    assert file.stat().st_mtime_ns > written and not list((trained / "scores").glob("partial-*"))


def test_impossible_options_are_named(hydragrad, trained):
    code, _, err = hydragrad("verify", trained, "--part", "3/2")
    assert code == 1 and "from 1/N to N/N" in err
    code, _, err = hydragrad("smoothness", trained, "--executor", "here", "--ray-address", "somewhere")
    assert code == 1 and "--ray-address is for --executor ray, got --executor here." in err
    code, _, err = hydragrad("attribute", trained, "--executor", "here", "--workers", 2)
    assert code == 1 and "take executor='processes'" in err
