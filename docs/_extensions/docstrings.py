"""Docstrings are written to be read as they stand; what reStructuredText would misread in them is put right here."""

import re
from typing import Any


def readable(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Escape bars, which mean a norm; mark code; keep colons in what is returned; name cost and source."""
    lines[:] = [_barred(line) for line in lines]
    for number, line in enumerate(lines):
        if line.endswith(":") and not line.endswith("::") and _opens_code(lines, number):
            lines[number] = line + ":"
        elif line == "Returns:":
            _as_field(lines, number)
        elif line.startswith(("Cost: ", "Source: ")):
            lines[number] = re.sub(r"^(\w+):", r"**\1.**", line)


def _barred(line: str) -> str:
    return "`".join(part if place % 2 else part.replace("|", r"\|") for place, part in enumerate(line.split("`")))


def _opens_code(lines: list[str], number: int) -> bool:
    """Whether a blank line and then deeper indentation follow."""
    after = lines[number + 1 : number + 3]
    return len(after) == 2 and not after[0].strip() and _indent(after[1]) > _indent(lines[number])


def _as_field(lines: list[str], number: int) -> None:
    """Napoleon would take what stands before the first colon for a type."""
    lines[number + 1] = ":returns: " + lines[number + 1].strip()
    lines[number] = ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else 0


def setup(app: Any) -> dict[str, bool]:
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", readable, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
