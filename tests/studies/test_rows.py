"""Rows of a study: what is there stays, whoever else writes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from studies.rows import append_rows, saved_rows


@dataclass(frozen=True, kw_only=True)
class Row:
    writer: int
    number: int


def test_rows_of_several_writers_are_all_kept(tmp_path):
    file = tmp_path / "rows.jsonl"

    def write(writer):
        for number in range(20):
            append_rows(file, [Row(writer=writer, number=number)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = saved_rows(Row, file)
    assert sorted((row.writer, row.number) for row in found) == [(w, n) for w in range(4) for n in range(20)]


def test_a_torn_last_line_is_dropped(tmp_path):
    file = tmp_path / "rows.jsonl"
    append_rows(file, [Row(writer=0, number=0)])
    with open(file, "a") as torn:
        torn.write('{"writer": 1, "num')
    append_rows(file, [Row(writer=2, number=2)])
    assert saved_rows(Row, file) == [Row(writer=0, number=0), Row(writer=2, number=2)]
