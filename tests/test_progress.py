"""Bars appear on terminals only: other outputs never get a character of them."""

import io
import itertools
import re

import pytest
from rich.console import Console

from hydragrad import progress


class Screen(io.StringIO):
    """The characters that a terminal got."""

    def isatty(self):
        return True


def on_a_screen(monkeypatch, **options):
    """A terminal that stores what is drawn on it."""
    screen = Screen()
    options = {"width": 100, "force_terminal": True} | options
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, **options))
    return screen


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return on_a_screen(monkeypatch)


def work():
    with progress.bar("training", 10, done=4) as shown:
        shown.advance()
        shown.advance(5)
        shown.note("epoch 1: train_loss 0.5")


def test_a_terminal_shows_stage_count_and_note(terminal):
    work()
    assert "training" in terminal.getvalue()
    assert "10/10 steps" in terminal.getvalue()


def test_the_note_is_below_the_bar_and_is_cut_at_the_edge(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = on_a_screen(monkeypatch, width=40)
    with progress.bar("training", 10) as shown:
        shown.advance(3)
        shown.note("epoch 1: train loss 0.5, validation loss 0.7")
    lines = [line for line in re.split(r"[\r\n]+", without_codes(screen.getvalue())) if line.strip()]
    assert any(line.startswith("training") and "3/10" in line for line in lines)
    assert any(line.startswith("epoch 1: train loss 0.5") and line.rstrip().endswith("…") for line in lines)
    assert max(map(len, lines)) <= 40


def test_rate_and_time_left_are_shown(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    now = itertools.count()
    screen = on_a_screen(monkeypatch, get_time=lambda: float(next(now)))
    with progress.bar("training", 10_000) as shown:
        for _ in range(4):
            shown.advance(1000)
    assert re.search(r"\d/s|s each", screen.getvalue())
    assert re.search(r"\d:\d\d left", screen.getvalue())


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_seconds_are_shown_as_a_clock(seconds, shown):
    assert progress.clock(seconds) == shown


def test_a_total_of_one_shows_no_bar(terminal):
    with progress.bar("querying", 1) as shown:
        shown.advance()
    assert terminal.getvalue() == ""


def test_no_color_turns_colours_off(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    screen = on_a_screen(monkeypatch)
    work()
    assert "training" in screen.getvalue()
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9)[0-9]", screen.getvalue())


def test_a_dumb_terminal_gets_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = on_a_screen(monkeypatch)
    work()
    assert screen.getvalue() == ""


def test_a_file_gets_nothing_even_if_colours_are_forced(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    work()
    assert capfd.readouterr() == ("", "")


def without_codes(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_an_output_that_is_no_terminal_gets_nothing(capfd):
    work()
    assert capfd.readouterr() == ("", "")


def test_quiet_hides_bars(terminal):
    with progress.quiet():
        work()
        with progress.quiet(False):
            work()
    assert terminal.getvalue() == ""
    with progress.quiet(False):
        work()
    assert "training" in terminal.getvalue()


def test_quiet_ends_with_its_block(terminal):
    with pytest.raises(KeyboardInterrupt), progress.quiet():
        raise KeyboardInterrupt
    work()
    assert "10/10" in terminal.getvalue()


def test_a_bar_inside_a_bar_is_not_shown(terminal):
    with progress.bar("outer", 3) as outer:
        work()
        outer.advance(3)
    assert "3/3" in terminal.getvalue()
    assert "training" not in terminal.getvalue()
    work()
    assert "training" in terminal.getvalue()
