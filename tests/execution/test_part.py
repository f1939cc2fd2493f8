import pytest

from hydragrad.errors import QueryError
from hydragrad.execution.part import Part


def test_slices_are_read_as_text_or_as_a_pair():
    assert Part.of("3/16") == Part.of((3, 16)) == Part(number=3, count=16)
    assert Part.of(None) is None
    assert str(Part(number=3, count=16)) == "3/16"


def test_every_job_is_the_own_job_of_one_slice():
    numbers = [0, 1, 2, 3, 5, 8, 9]
    own = {}
    for number in (1, 2, 3):
        ordered = Part(number=number, count=3).first_own(numbers)
        assert sorted(ordered) == numbers
        own[number] = {job for job in numbers if job % 3 == number - 1}
        assert set(ordered[: len(own[number])]) == own[number]
    assert set.union(*own.values()) == set(numbers)


@pytest.mark.parametrize("wrong", ["0/4", "5/4", (2, 0), "-1/3"])
def test_slices_out_of_range_are_refused(wrong):
    with pytest.raises(QueryError, match="from 1/N to N/N"):
        Part.of(wrong)


@pytest.mark.parametrize("wrong", ["half", "1/2/3", (1,), 3, "1"])
def test_what_is_no_slice_is_refused(wrong):
    with pytest.raises(QueryError, match="part takes a slice as in"):
        Part.of(wrong)
