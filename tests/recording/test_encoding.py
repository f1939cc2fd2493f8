"""States and lines come back as they were written."""

import collections
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import RunDamaged, Unsupported
from hydragrad.recording.encoding import decode, encode
from hydragrad.recording.files import AppendOnlyLines, read_lines, sealed, unsealed

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.recursive(
    PLAIN | st.sets(st.integers()) | st.builds(collections.Counter, st.lists(st.integers())),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.integers() | st.text(), inner),
)
RECORDS = st.dictionaries(st.text(), PLAIN | st.lists(PLAIN))


@given(STATES)
def test_a_state_comes_back(state: Any) -> None:
    back = decode(json.loads(json.dumps(encode(state))))
    assert back == state
    assert type(back) is type(state)


def test_what_needs_pickling_is_refused() -> None:
    with pytest.raises(Unsupported, match="holds a function"):
        encode({"rate": lambda step: step})


@given(RECORDS.filter(bool), st.data())
def test_a_line_comes_back_and_an_altered_one_does_not(record: dict[str, Any], data: Any) -> None:
    line = sealed(record)
    assert unsealed(line + "\n") == record
    assert unsealed(line[: data.draw(st.integers(0, len(line) - 1))]) is None


def test_lines_are_kept_dropped_and_torn(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = AppendOnlyLines(path)
    for step in range(4):
        lines.append({"step": step})
    lines.close()
    AppendOnlyLines(path, keep=3).close()
    assert read_lines(path, "lines") == [{"step": step} for step in range(3)]
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert len(read_lines(path, "lines")) == 2
    path.write_bytes(whole[5:])
    with pytest.raises(RunDamaged, match="Line 1"):
        read_lines(path, "lines")
