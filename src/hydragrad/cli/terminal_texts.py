"""Texts in a terminal: one line each, with what can't be printed made visible."""

LONGEST = 160
"""Characters of a text that are shown."""

VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def one_line(text: str, longest: int = LONGEST) -> str:
    """Return a text in one line: ends of lines as ⏎, other control characters as their escapes, shortened with an …"""
    shown = "".join(VISIBLE.get(character) or _printable(character) for character in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _printable(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]
