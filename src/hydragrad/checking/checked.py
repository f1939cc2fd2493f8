"""Checked: what a check has found, as values and as tables."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hydragrad.checking.refused import Refusal
from hydragrad.scores import Note

WIDTH = 118
"""Columns of the printed table, where no terminal says how many there are."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a setup.

    Attributes:
        name: What it is.
        ok: Whether it can be recorded; None where an earlier refusal left it untried.
        found: What was found.
        refusal: Why it is refused, where it is.
    """

    name: str
    ok: bool | None
    found: str = ""
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to ask about the training, really taken on its two steps.

    Attributes:
        name: What is called.
        works: Whether it gave an answer; None where there was nothing to try it on.
        route: How derivatives are taken.
        why: Why by this route.
        ratio: Time of a step, as a multiple of a plain step; None where the cost does not grow with the steps.
        seconds: Time for the whole training, on this machine; None where it was not measured.
        at_most: Whether both are bounds, since what is done once takes longer than a step.
        memory: Bytes next to those of the training, estimated from sizes.
        disk: Bytes.
        refusal: Why it is refused, where it is; or, where it works, what does not fit.
    """

    name: str
    works: bool | None
    route: str = ""
    why: str = ""
    ratio: float | None = None
    seconds: float | None = None
    at_most: bool = False
    memory: int = 0
    disk: int = 0
    refusal: Refusal | None = None


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What `hg.check` found. Printed, it is a table; so it is in a notebook.

    Attributes:
        parts: What can be recorded, part by part.
        modes: Which route each mode takes, and what it costs.
        notes: What a reader of later scores must know.
        steps: Steps of the training that the costs are of.
        samples: Samples of the training set; 0 where they can't be counted.
        step_seconds: A plain step with its batches; None where no step could be made.
    """

    parts: tuple[Part, ...]
    modes: tuple[Mode, ...] = ()
    notes: tuple[Note, ...] = ()
    steps: int = 0
    samples: int = 0
    step_seconds: float | None = None

    @property
    def recordable(self) -> bool:
        """Whether two steps were recorded, and no part of the setup is refused."""
        return (
            bool(self.parts) and all(part.ok is not False for part in self.parts) and self.part("two steps").ok is True
        )

    def part(self, name: str) -> Part:
        """A part by name; one that was not tried, where there is none of that name."""
        return next((part for part in self.parts if part.name == name), Part(name=name, ok=None))

    def mode(self, name: str) -> Mode:
        """A mode by name; one that was not tried, where there is none of that name."""
        return next((mode for mode in self.modes if mode.name == name), Mode(name=name, works=None))

    def to_frame(self) -> pd.DataFrame:
        """One row a part or mode, with all fields; the refusal's in columns `error`, `cause` and `change`."""
        rows = [{"table": "part", **_flat(part)} for part in self.parts]
        return pd.DataFrame(rows + [{"table": "mode", **_flat(mode)} for mode in self.modes])

    def to_dict(self) -> dict[str, Any]:
        """Flat plain values: `mode.hessian.works`, `mode.hessian.ratio`, `part.loss.ok`, and so on."""
        figures: dict[str, Any] = {
            "recordable": self.recordable,
            "steps": self.steps,
            "samples": self.samples,
            "step_seconds": self.step_seconds,
        }
        for kind, entries in (("part", self.parts), ("mode", self.modes)):
            for entry in entries:
                named = {name: value for name, value in _flat(entry).items() if name != "name"}
                figures |= {f"{kind}.{entry.name}.{name}": value for name, value in named.items()}
        return figures | {f"note.{number}": note.text for number, note in enumerate(self.notes)}

    @property
    def headline(self) -> str:
        """One sentence."""
        if not self.recordable:
            refused = [part.name for part in self.parts if part.ok is False]
            return f"This setup can't be recorded as it is: see {', '.join(refused) or 'what was not tried'}."
        failing = [mode.name for mode in self.modes if mode.works is False]
        return "This setup can be recorded" + (
            f"; refused: {', '.join(failing)}." if failing else ", and every mode works."
        )

    @property
    def costs_of(self) -> str:
        """What the costs are of."""
        if self.step_seconds is None:
            return "costs: nothing was measured"
        return (
            f"costs: of {self.steps:,} steps on {self.samples:,} samples, measured in one call on this machine; a "
            f"plain step takes {clock(self.step_seconds)}; memory and disk come on top of the training's own"
        )

    def part_rows(self) -> list[tuple[str, ...]]:
        """The first table's cells."""
        words = {True: "yes", False: "no", None: "-"}
        return [(part.name, words[part.ok], part.found or _cause(part.refusal)) for part in self.parts]

    def mode_rows(self) -> list[tuple[str, ...]]:
        """The second table's cells."""
        words = {True: "yes", False: "no", None: "-"}
        return [
            (mode.name, words[mode.works], mode.route, *_costs(mode), mode.why or _cause(mode.refusal))
            for mode in self.modes
        ]

    def changes(self) -> list[tuple[str, str]]:
        """What to change: the name of a part or mode, and the library's words; the same words once."""
        told: dict[str, list[str]] = {}
        entries: tuple[Part | Mode, ...] = (*self.parts, *self.modes)
        for entry in entries:
            if entry.refusal is not None and not entry.refusal.repeats:
                told.setdefault(entry.refusal.message, []).append(entry.name)
        return [(", ".join(names), message) for message, names in told.items()]

    def __repr__(self) -> str:
        screen = Console(file=io.StringIO(), width=WIDTH, highlight=False)
        screen.print(Text(self.headline), "", sep="\n")
        screen.print(_table(PART_HEADINGS, self.part_rows()), "")
        if self.modes:
            screen.print(Text(self.costs_of))
            screen.print(_table(MODE_HEADINGS, self.mode_rows()), "")
        for name, message in self.changes():
            screen.print(Text(f"{name}: {message}"))
        for note in self.notes:
            screen.print(Text(f"note: {note.text}"))
        written = screen.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in written.splitlines())

    def _repr_html_(self) -> str:
        tables = [_html(PART_HEADINGS, self.part_rows())]
        if self.modes:
            tables += [f"<p>{escape(self.costs_of)}</p>", _html(MODE_HEADINGS, self.mode_rows())]
        lines = [f"<li><b>{escape(name)}</b>: {escape(message)}</li>" for name, message in self.changes()]
        lines += [f"<li>{escape(note.text)}</li>" for note in self.notes]
        return f"<p><b>{escape(self.headline)}</b></p>{''.join(tables)}<ul>{''.join(lines)}</ul>"


PART_HEADINGS = ("part", "ok", "found")
MODE_HEADINGS = ("mode", "works", "route", "x step", "time", "memory", "disk", "why")


def size(count: int) -> str:
    """Bytes as a person reads them; a dash for none."""
    if count <= 0:
        return "-"
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= factor:
            return f"{count / factor:,.3g} {unit}" if count < 1000 * factor else f"{count / factor:,.0f} {unit}"
    return f"{max(1, round(count / 1024))} KiB"


def clock(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    unit, factor = next((unit, factor) for unit, factor, most in UNITS if seconds < most)
    return f"{seconds / factor:,.1f} {unit}" if seconds < 10 * factor else f"{seconds / factor:,.0f} {unit}"


UNITS = (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, float("inf")))
"""Units of time, in seconds, and up to how many seconds they are used."""


def _costs(mode: Mode) -> tuple[str, ...]:
    bound = "< " if mode.at_most else ""
    ratio = "" if mode.ratio is None else bound + (f"{mode.ratio:.2g}" if mode.ratio < 99 else f"{mode.ratio:,.0f}")
    return ratio, "" if mode.seconds is None else bound + clock(mode.seconds), size(mode.memory), size(mode.disk)


def _cause(refusal: Refusal | None) -> str:
    return "" if refusal is None else refusal.cause


def _flat(entry: Part | Mode) -> dict[str, Any]:
    refusal = entry.refusal
    values = {name: value for name, value in asdict(entry).items() if name != "refusal"}
    return values | {
        "error": "" if refusal is None else refusal.error,
        "cause": "" if refusal is None else refusal.cause,
        "change": "" if refusal is None else refusal.change,
    }


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        right, wraps = heading in ("x step", "time", "memory", "disk"), heading in ("found", "why")
        grid.add_column(heading, justify="right" if right else "left", no_wrap=not wraps, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _html(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return pd.DataFrame(rows, columns=list(headings)).to_html(index=False, border=0, escape=True)
