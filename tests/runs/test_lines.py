import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydragrad.errors import DiskFull, RunDamaged
from hydragrad.runs.lines import AppendOnlyLines, read_lines, sealed, unsealed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text(), values, max_size=4)


@given(records)
def test_a_sealed_line_comes_back(record):
    line = sealed(record)
    assert "\n" not in line
    assert unsealed(line) == unsealed(line + "\n") == record


def test_a_record_may_hold_what_looks_like_a_checksum():
    record = {"text": sealed({"a": 1}), ', "crc32": "': ', "crc32": "00000000"}'}
    assert unsealed(sealed(record)) == record


@given(records, st.data())
def test_a_torn_or_altered_line_is_noticed(record, data):
    line = sealed(record)
    assert unsealed(line[: data.draw(st.integers(0, len(line) - 1), label="torn at")]) is None

    content = bytearray(line.encode())
    content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    assert unsealed(content.decode(errors="replace")) is None


@pytest.fixture
def lines(tmp_path):
    log = AppendOnlyLines(tmp_path / "log")
    for number in range(4):
        log.append({"number": number})
    log.sync()
    log.close()
    return tmp_path / "log"


def numbers(path):
    return [record["number"] for record in read_lines(path, "numbers")]


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 9])
def test_lines_are_kept_and_the_rest_is_dropped(lines, keep):
    log = AppendOnlyLines(lines, keep=keep)
    log.append({"number": 7})
    log.close()
    assert numbers(lines) == [*range(min(keep, 4)), 7]


@pytest.mark.parametrize("torn", [1, 2, 10])
def test_a_torn_last_line_is_passed_over(lines, torn):
    """Also one that lacks nothing but its end: the next line would be written onto it."""
    lines.write_bytes(lines.read_bytes()[:-torn])
    assert numbers(lines) == [0, 1, 2]


def test_damage_elsewhere_is_named(lines):
    content = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join([content[0], content[1][:-3] + "\n", *content[2:]]))
    with pytest.raises(RunDamaged, match=r"Line 2 of .*log \(numbers\).*altered or damaged"):
        read_lines(lines, "numbers")
    with pytest.raises(RunDamaged, match="is missing, so the run can't be read"):
        read_lines(lines.with_name("none"), "numbers")


@pytest.fixture
def small_files():
    """Files of more than 4 KB can't be written, which the system tells as a full disk is told."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_really_full_disk_under_a_log(tmp_path, small_files):
    """The system takes a part of the line; it is torn, and those before it are whole."""
    log = AppendOnlyLines(tmp_path / "log")
    with pytest.raises(DiskFull, match="full while writing"):
        for number in range(1000):
            log.append({"number": number})
    log.close()
    assert (tmp_path / "log").stat().st_size == 4096
    assert numbers(tmp_path / "log") == list(range(number))


def test_another_file_of_sealed_lines_is_named(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text(sealed({"epoch": 0, "train_loss": 1.0}) + "\n")
    with pytest.raises(RunDamaged, match=r"must be one of the steps, with step, loss; it has epoch, train_loss"):
        read_lines(path, "steps", ("step", "loss"))
