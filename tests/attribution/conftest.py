"""Recordings of the cases, each made once a session."""

from collections.abc import Callable

import pytest

import hydragrad as hg
from cases import Case, record


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], hg.Recording]:
    made: dict[str, hg.Recording] = {}

    def get(case: Case) -> hg.Recording:
        if case.name not in made:
            made[case.name] = record(case, tmp_path_factory.mktemp("runs") / case.name)
        return made[case.name]

    return get
