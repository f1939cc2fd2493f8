"""Texts with their tokens marked by contribution."""

from hydragrad.cli.marked_tokens import HARMS, HELPS, marked

NAN = float("nan")


def test_the_strongest_tokens_are_in_brackets_with_their_signed_numbers():
    line = marked(["a", "b\n", "c ", " d", "e", ""], [0.1, -2.0, 0.0, 1.0, 0.5, NAN])
    assert line.plain == "a[b⏎ -2]c [␣d +1][e +0.5]"


def test_tokens_are_coloured_by_sign_and_size():
    line = marked(["a", "b", "c", "d"], [0.1, -2.0, 0.0, 1.5])
    backgrounds = [str(span.style).split()[-1] for span in line.spans]
    assert backgrounds == [HELPS[0], HARMS[2], HELPS[2]]


def test_a_piece_without_a_contribution_and_zeros_are_plain():
    assert marked(["a", "b", ""], [NAN, 0.0, NAN]).plain == "ab"
    assert marked(["", ""], [NAN, NAN]).plain == ""


def test_of_a_long_text_what_is_around_the_strongest_token_is_shown():
    values = [0.0] * 50
    values[30] = -1.0
    line = marked(list("abcdefghij" * 5), values, longest=7)
    assert line.plain == "…hij[a -1]bcd…"
    values[30], values[49] = 0.0, 1.0
    assert marked(list("abcdefghij" * 5), values, longest=4).plain == "…ghi[j +1]"
