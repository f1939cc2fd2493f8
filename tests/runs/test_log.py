import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import RunDamaged
from hydragrad.runs.lines import sealed, unsealed
from hydragrad.runs.log import StepRecord, Structure, from_lines, to_line

names = st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple)
structures = st.builds(
    Structure, groups=st.lists(names, max_size=2).map(tuple), frozen=names, idle=names, evaluating=names
)
options = st.lists(
    st.fixed_dictionaries({"lr": st.floats(allow_nan=False), "nesterov": st.booleans(), "foreach": st.none()}),
    max_size=2,
).map(tuple)
steps = st.builds(
    StepRecord,
    step=st.just(0),
    indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=4),
    batch_seed=st.integers(0, 2**63 - 1),
    options=options,
    structure=structures,
    norm=st.floats(allow_nan=False),
    loss=st.none() | st.floats(allow_nan=False),
)


def written(records):
    befores = [None, *records[:-1]]
    return [unsealed(sealed(to_line(record, before))) for record, before in zip(records, befores, strict=True)]


@given(st.lists(steps, min_size=1, max_size=6), st.integers(1, 3))
def test_records_come_back(drawn, repeats):
    drawn = [record for record in drawn for _ in range(repeats)]
    records = [dataclasses.replace(record, step=step) for step, record in enumerate(drawn)]
    assert list(from_lines(written(records))) == records


STRUCTURE = Structure(groups=(("w",),), frozen=(), idle=(), evaluating=())


def step(number, lr=0.1, structure=STRUCTURE):
    return StepRecord(number, [number], 5, ({"lr": lr},), structure, 1.0, None)


def test_what_did_not_change_is_not_written_again():
    first, second, third, fourth = written([step(0), step(1), step(2, lr=0.2), step(3, lr=0.2)])
    assert {"options", "structure"} <= first.keys()
    assert not {"options", "structure"} & second.keys()
    assert third["options"] == [{"lr": 0.2}]
    assert not {"options", "structure"} & fourth.keys()


def test_a_missing_line_is_noticed():
    lines = written([step(0), step(1), step(2)])
    with pytest.raises(RunDamaged, match="has step 2 where step 1 belongs: lines are missing"):
        list(from_lines([lines[0], lines[2]]))
