"""Evidence: copies with notes and checks, and files of earlier versions."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hydragrad.errors import RunDamaged
from hydragrad.scores import Check, Evidence, Method, Note, Scores
from hydragrad.scores.notes import CURVATURE_DROPPED, interrupted

OLD = {
    "curvature": "ggn",
    "damping": 0.5,
    "replays": 2,
    "seeds": 1,
    "route": "sweep",
    "steps": 9,
    "completed": False,
    "replay_exact": True,
    "replay_drift": 0.0,
    "notes": ["Averaged over 2 replays.", "Smoothness: it is smooth."],
    "checks": [
        {"name": "x, random groups", "random": True, "size": 3, "groups": 4, "unit": "loss", "lds": 0.5},
        {"name": "x, most harmful and helpful", "random": False, "size": 3, "groups": 2, "unit": "loss"},
        {"name": "given groups", "random": False, "size": None, "groups": 1, "unit": "loss", "predicted": [0.5]},
    ],
}


def test_evidence_of_an_earlier_version_is_read():
    evidence = Evidence.from_dict(OLD)
    assert evidence.method == Method.of("ggn", damping=0.5, replays=2)
    assert (evidence.curvature, evidence.damping, evidence.smoothing, evidence.replays) == ("ggn", 0.5, None, 2)
    assert evidence.notes == (Note("other", "Averaged over 2 replays."), Note("other", "Smoothness: it is smooth."))
    assert [(check.kind, check.size, check.groups) for check in evidence.checks] == [
        ("random", 3, 4),
        ("extremes", 3, 2),
        ("given", None, 1),
    ]
    assert evidence.checks[2].predicted == (0.5,)
    assert Evidence.from_dict(json.loads(json.dumps(evidence.to_dict()))) == evidence


def test_a_scores_file_of_an_earlier_version_is_read(tmp_path):
    file = tmp_path / "old.safetensors"
    tensors = {
        "values": torch.ones(1, 2, dtype=torch.float64),
        "sample_ids": torch.arange(2),
        "query_values": torch.ones(1, dtype=torch.float64),
    }
    metadata = {"meaning": "", "query_names": '["loss of sample 3"]', "evidence": json.dumps(OLD)}
    save_file(tensors, file, metadata)
    scores = Scores.load(file)
    assert scores.evidence == Evidence.from_dict(OLD)
    assert scores.query_samples is None, "a name means nothing"
    assert scores.about == {}
    scores.save(tmp_path / "new.safetensors")
    assert Scores.load(tmp_path / "new.safetensors").evidence == scores.evidence
    metadata["evidence"] = json.dumps(OLD | {"curvature": "nonsense"})
    save_file(tensors, file, metadata)
    with pytest.raises(RunDamaged, match="got 'nonsense'"):
        Scores.load(file)


def test_a_note_of_a_later_version_is_of_another_kind():
    assert Note.read({"kind": "a later kind", "text": "Text."}) == Note("other", "Text.")
    assert Note.read({"kind": "advice", "text": "Text."}) == Note("advice", "Text.")
    assert str(interrupted(1200)) == "The run was interrupted; this is its state after step 1,200."


def test_a_note_stands_in_place_of_an_earlier_one_of_its_kind():
    evidence = Evidence(notes=(CURVATURE_DROPPED, Note("smoothness", "Rough.")))
    assert evidence.with_note(Note("smoothness", "Smooth.")).notes == (CURVATURE_DROPPED, Note("smoothness", "Smooth."))


def test_checks_stand_in_place_of_earlier_ones_of_the_same_groups():
    first, other = (Check(kind="random", size=size, unit="loss", lds=0.1) for size in (3, 4))
    again = Check(kind="random", size=3, unit="loss", lds=0.2)
    assert Evidence(checks=(first, other)).with_checks([again]).checks == (other, again)
