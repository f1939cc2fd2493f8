"""Bars are for terminals: nothing else ever sees a character of them."""

import io

import pytest
from rich.console import Console

from hydragrad import progress


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that remembers what is drawn on it."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    return screen


def work():
    with progress.bar("training", 10, done=4) as shown:
        shown.advance()
        shown.advance(5)
        shown.note("epoch 1: train_loss 0.5")


def test_a_terminal_sees_stage_count_and_note(terminal):
    work()
    assert "training" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
    assert "epoch 1: train_loss 0.5" in terminal.getvalue()


def test_what_is_no_terminal_sees_nothing(capfd):
    work()
    assert capfd.readouterr() == ("", "")


def test_quiet_is_quiet(terminal):
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
