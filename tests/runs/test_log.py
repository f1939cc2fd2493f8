import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import RunDamaged
from hydragrad.randomness import stream_seed
from hydragrad.runs.lines import sealed, unsealed
from hydragrad.runs.log import MicroBatch, StepRecord, Structure, from_lines, to_line
from hydragrad.steps.transforms import ClipNorm, ClipValue, Scale

names = st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple)
structures = st.builds(
    Structure, groups=st.lists(names, max_size=2).map(tuple), frozen=names, idle=names, evaluating=names
)
options = st.lists(
    st.fixed_dictionaries(
        {
            "lr": st.floats(allow_nan=False),
            "betas": st.just((0.9, 0.99)),
            "nesterov": st.booleans(),
            "foreach": st.none(),
        }
    ),
    max_size=2,
).map(tuple)
coefficients = st.floats(allow_nan=False, allow_infinity=False)
micro_batches = st.lists(st.integers(0, 10**9), min_size=1, max_size=4).flatmap(
    lambda indices: st.builds(
        MicroBatch,
        indices=st.just(indices),
        batch_seed=st.integers(0, 2**63 - 1),
        seed=st.integers(0, 2**63 - 1),
        coefficients=coefficients | st.tuples(*[coefficients] * len(indices)),
        digest=st.none() | st.integers(0, 2**32 - 1),
    )
)
transforms = st.one_of(
    st.builds(ClipNorm, names=names, max_norm=st.floats(0.1, 9), norm_type=st.sampled_from([2.0, 1.0, float("inf")])),
    st.builds(ClipValue, names=names, limit=st.floats(0.1, 9)),
    st.builds(Scale, names=names, factor=st.floats(-2, 2)),
)
steps = st.builds(
    StepRecord,
    step=st.just(0),
    micro_batches=st.lists(micro_batches, min_size=1, max_size=3).map(tuple),
    options=options,
    structure=structures,
    state=st.floats(allow_nan=False),
    whole_state=st.booleans(),
    loss=st.none() | st.floats(allow_nan=False),
    transforms=st.lists(transforms, max_size=2).map(tuple),
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
    return StepRecord(number, (MicroBatch([number], 5, 6, 1.0),), ({"lr": lr},), structure, 1.0, None)


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


def test_lines_of_schema_1_are_read_as_one_micro_batch():
    line = {"step": 0, "indices": [4, 2], "batch_seed": 9, "norm": 1.0, "loss": 0.5}
    old = line | {"options": [{"lr": 0.1}], "structure": dataclasses.asdict(STRUCTURE)}
    (mean,) = from_lines([old], seed=7)
    assert mean.micro_batches == (MicroBatch([4, 2], 9, stream_seed(7, 0), 0.5),) and mean.indices == [4, 2]
    (total,) = from_lines([old], seed=7, reduction="sum")
    assert total.micro_batches[0].coefficients == 1.0 and total.micro_batches[0].divisor == 1.0


def test_the_divisor_of_a_mean_is_the_size_of_the_batch():
    for size in range(1, 200):
        part = MicroBatch(list(range(size)), 0, 0, 1 / size)
        assert part.divisor == size
    assert MicroBatch([1, 2], 0, 0, 0.1).divisor == 10.0
    assert MicroBatch([1, 2], 0, 0, (0.1, 0.2)).divisor == 1.0


def test_a_step_of_several_micro_batches_has_all_their_samples():
    parts = (MicroBatch([4, 2], 0, 0, 0.25), MicroBatch([2], 0, 0, 0.5))
    assert StepRecord(0, parts, (), STRUCTURE, 1.0, None).indices == [4, 2, 2]
