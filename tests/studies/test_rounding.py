"""The study of rounding: one row a machine and one a fault, measured once."""

from studies import rounding
from studies.rounding import FAULTY_ON, reproduce_rounding

SUBJECT = "MLP, SGD, float64"


def test_machines_and_faults_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(rounding, "MACHINES", {FAULTY_ON: rounding.MACHINES[FAULTY_ON]})
    options = {"steps": 6, "subjects": [SUBJECT], "faults": ["one label", "rate 1 % off"]}
    clean, *faulty = rows = reproduce_rounding(tmp_path, **options)
    assert max(clean.state_share, clean.loss_share, clean.parts_share) < 1
    assert [row.fault for row in faulty] == options["faults"]
    assert all(row.noticed == 0 and row.state_share > 1e6 for row in faulty)
    monkeypatch.setattr(rounding, "measure", None)
    assert reproduce_rounding(tmp_path, **options)[1:] == rows[1:]
