"""Texts in one line of a terminal."""

from hydragrad.cli.terminal_texts import one_line


def test_what_can_not_be_printed_is_made_visible():
    assert one_line("a\nb\tc\x1b[31md") == "a⏎b⇥c\\x1b[31md"
    assert one_line("naïve “text”") == "naïve “text”"


def test_a_long_text_is_shortened():
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("abcd", 4) == "abcd"
