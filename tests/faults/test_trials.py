"""Trials are resumed and tallied; the table of the documentation is that of the rows; damages do damage."""

import json
import random

import pytest

from faults.damages import ACCIDENTS, _damage
from faults.trials import DOCUMENT, RESULTS, Trial, Trials, markdown, rows


def test_trials_are_resumed_and_tallied(tmp_path):
    trials = Trials(tmp_path / "trials.jsonl", "damages", 0)
    for came in ("same", "named", "other"):
        trials.add(Trial("damages", "run", "cut", came, "", 0))
    Trials(tmp_path / "trials.jsonl", "damages", 1).add(Trial("damages", "run", "cut", "same", "", 1))
    again = Trials(tmp_path / "trials.jsonl", "damages", 0)
    assert again.done == trials.done
    (row,) = rows(again.done)
    assert (row["trials"], row["same"], row["named"], row["other"]) == (3, 1, 1, 1)
    assert markdown([row]).splitlines()[-1] == "| damages | all | 3 | 1 | 1 | 0 | 1 |"


def test_the_document_has_the_table_of_the_rows():
    tally = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert markdown(tally) in DOCUMENT.read_text()
    assert all(row["trials"] == row["same"] + row["named"] + row["warned"] for row in tally)


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_an_accident_alters_its_file_or_a_sibling(accident, tmp_path):
    files = [tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "c.json"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number + 1]) * 50)
    before = [file.read_bytes() for file in files]
    _damage(files[0], files, accident, random.Random(0))
    after = [file.read_bytes() if file.exists() else None for file in files]
    assert after[0] != before[0] and after[2] == before[2]
    assert (after[1] != before[1]) == (accident == "swapped")
