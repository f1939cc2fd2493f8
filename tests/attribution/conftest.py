"""Recordings of the cases, each made once a session."""

from collections.abc import Callable

import pytest
import torch

import hydragrad as hg
from cases import Case, record
from hydragrad.steps import muon


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], hg.Recording]:
    made: dict[str, hg.Recording] = {}

    def get(case: Case) -> hg.Recording:
        if case.name not in made:
            made[case.name] = record(case, tmp_path_factory.mktemp("runs") / case.name)
        return made[case.name]

    return get


@pytest.fixture(autouse=True)
def muon_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon orthogonalizes in bfloat16, in which differences of two runs would be noise: in float64 here."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    monkeypatch.setattr(muon, "PRECISION", torch.float64)
