"""What came of every trial, a line each, so that an interrupted campaign is resumed; and the tally of them."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

GOOD = ("same", "named", "warned")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "faults.jsonl"
DOCUMENT = RESULTS.parents[1] / "faults.md"


@dataclass(frozen=True)
class Trial:
    """One accident.

    Attributes:
        campaign: kills or damages.
        task: What was done.
        accident: What happened to it.
        came: same, named, warned; or a fault: other (another answer), foreign, crash, hang.
        text: Of an error, or what was damaged.
        seed: The campaign's.
    """

    campaign: str
    task: str
    accident: str
    came: str
    text: str
    seed: int


class Trials:
    """The trials of a campaign in a file, appended one by one."""

    def __init__(self, path: Path, campaign: str, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        every = [Trial(**json.loads(line)) for line in lines if line.endswith("}")]
        self.done = [trial for trial in every if (trial.campaign, trial.seed) == (campaign, seed)]

    def add(self, trial: Trial) -> None:
        self.done.append(trial)
        with open(self._path, "a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")


def rows(trials: list[Trial]) -> list[dict[str, object]]:
    """One row a campaign, task and accident: how many, and what came of them."""
    counts: dict[tuple[str, str, str, int], Counter[str]] = {}
    for trial in trials:
        key = (trial.campaign, trial.task, trial.accident, trial.seed)
        counts.setdefault(key, Counter())[trial.came] += 1
    columns = (*GOOD, "other", "foreign", "crash", "hang")
    return [
        dict(zip(("campaign", "task", "accident", "seed"), key, strict=True))
        | {"trials": count.total()}
        | {name: count[name] for name in columns}
        for key, count in sorted(counts.items())
    ]


def write_rows(trials: list[Trial]) -> None:
    """Write the tally as lines of JSON, and the table of the documentation."""
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows(trials)))
    before, _, rest = DOCUMENT.read_text().partition("<!-- tally -->")
    after = rest.partition("<!-- end -->")[2]
    DOCUMENT.write_text(f"{before}<!-- tally -->\n\n{markdown(rows(trials))}\n\n<!-- end -->{after}")


def markdown(tally: list[dict[str, object]]) -> str:
    """A table with a line for every campaign and task, all accidents together."""
    headings = ("campaign", "task", "trials", "same answer", "named error", "warning", "faults")
    sums: dict[tuple[str, str], Counter[str]] = {}
    for row in tally:
        for key in ((str(row["campaign"]), str(row["task"])), (str(row["campaign"]), "all")):
            sums.setdefault(key, Counter()).update({name: int(str(row[name])) for name in ("trials", *GOOD)})
    lines = [headings, ("---",) * len(headings)]
    for key, count in sorted(sums.items(), key=lambda item: (item[0][0], item[0][1] == "all", item[0][1])):
        faults = count["trials"] - sum(count[name] for name in GOOD)
        lines.append((*key, *(f"{number:,}" for number in (count["trials"], *(count[n] for n in GOOD), faults))))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(trials: list[Trial]) -> None:
    """Print the tally, and what was wrong."""
    console, table = Console(), Table()
    for heading in ("campaign", "task", "accident", "trials", *GOOD, "faults"):
        table.add_column(heading, justify="left" if heading in ("campaign", "task", "accident") else "right")
    for row in rows(trials):
        good = [int(str(row[name])) for name in GOOD]
        faults = int(str(row["trials"])) - sum(good)
        cells = [row["campaign"], row["task"], row["accident"], row["trials"], *good, faults]
        table.add_row(*map(str, cells), style="red" if faults else None)
    console.print(table)
    for trial in trials:
        if trial.came not in GOOD:
            console.print(f"{trial.campaign} {trial.task} {trial.accident}: {trial.came}: {trial.text}", markup=False)
