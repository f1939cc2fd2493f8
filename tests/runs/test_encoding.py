import collections
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import Unsupported
from hydragrad.runs.encoding import decode, encode

keys = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
states = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sets(st.integers()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.lists(st.integers(), max_size=4).map(collections.Counter)
    ),
    max_leaves=10,
)


def same(one, other):
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return [*map(repr, one)] == [*map(repr, other)] and all(map(same, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(states)
def test_a_state_comes_back_through_json(state):
    assert same(decode(json.loads(json.dumps(encode(state)))), state)


def test_scalars_of_other_libraries_become_numbers():
    state = {"tensor": torch.tensor(0.5), "numpy": np.float64(0.25), "count": np.int64(3)}
    assert same(decode(json.loads(json.dumps(encode(state)))), {"tensor": 0.5, "numpy": 0.25, "count": 3})


@pytest.mark.parametrize("value", [lambda epoch: epoch, object(), b"bytes"], ids=["function", "object", "bytes"])
def test_what_would_have_to_be_pickled_is_refused(value):
    with pytest.raises(Unsupported, match=f"holds a {type(value).__name__}, which can't be written without pickling"):
        encode({"state": [value]})
