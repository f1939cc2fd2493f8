"""Queries as they are typed: a data set, or one sample of it."""

import pytest

from hydragrad.errors import QueryError
from hydragrad.experiments.named_query import NamedQuery


def test_a_query_is_a_data_set_or_one_of_its_samples():
    assert NamedQuery.parse("test", ["validation", "test"]) == NamedQuery("test")
    assert NamedQuery.parse("test:42", ["validation", "test"]) == NamedQuery("test", 42)


@pytest.mark.parametrize("text", ["valid", "test:", "test:x", "test:-1", "", ":3"])
def test_anything_else_is_refused(text):
    with pytest.raises(
        QueryError, match=f"one of validation, test, or one sample of it, as in validation:42, got '{text}'"
    ):
        NamedQuery.parse(text, ["validation", "test"])
