"""Ask `hg.check` about every optimizer with every feature, and write the tables of docs/support.md: `make matrix`.

What it says is saved in rows.jsonl. A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
from pathlib import Path
from typing import Any

from setups import FEATURES, OPTIMIZERS, every_row, row

ROWS = Path(__file__).parent / "rows.jsonl"
DOCUMENT = Path(__file__).parent.parent / "support.md"
TABLE = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
COLUMNS = {
    "record": "Recorder",
    "none": "`none`",
    "labels": "`labels=True`",
    "hessian": "`hessian`",
    "ggn": "`ggn`",
    "influence": "`hg.influence`",
    "counterfactual": "`hg.counterfactual`",
    "hypergradients": "`hg.hypergradients`",
    "Tracker": "`hg.Tracker`",
}
"""The modes of the table, and their headings."""

measured = row
"""For the test that measures some rows again."""


def read_rows() -> list[dict[str, Any]]:
    """The saved rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def modes_table(rows: list[dict[str, Any]]) -> str:
    """Optimizer by mode: the route of a plain loop."""
    lines = _head(["optimizer", *COLUMNS.values()])
    for optimizer in OPTIMIZERS:
        (plain,) = (row for row in rows if row["optimizer"] == optimizer and row["feature"] == "plain")
        lines.append(_line([f"`{optimizer}`", *(_cell(mode, plain) for mode in COLUMNS)]))
    return "\n".join(lines)


def features_table(rows: list[dict[str, Any]]) -> str:
    """Optimizer by feature: which modes do not work with it."""
    features = [name for name in FEATURES if name != "plain"]
    lines = _head(["optimizer", *features])
    for optimizer in OPTIMIZERS:
        of_feature = {row["feature"]: row for row in rows if row["optimizer"] == optimizer}
        lines.append(_line([f"`{optimizer}`", *(_exceptions(of_feature[name]) for name in features)]))
    return "\n".join(lines)


def routes_table(rows: list[dict[str, Any]]) -> str:
    """Feature by mode: the routes that some optimizer's loop takes."""
    lines = _head(["a loop with", *COLUMNS.values()])
    for feature in FEATURES:
        some = [row for row in rows if row["feature"] == feature]
        cells = [", ".join(dict.fromkeys(_cell(mode, row) for row in some)) for mode in COLUMNS]
        lines.append(_line([feature, *cells]))
    return "\n".join(lines)


TABLES = {
    "features-and-modes": routes_table,
    "optimizers-and-modes": modes_table,
    "optimizers-and-features": features_table,
}


def rewritten(text: str, rows: list[dict[str, Any]]) -> str:
    """Return the text with every table written again."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match['name']} -->\n\n{TABLES[match['name']](rows)}\n\n<!-- end -->"

    return TABLE.sub(table, text)


def _cell(mode: str, row: dict[str, Any]) -> str:
    if not row["recordable"]:
        return "no"
    route = row["modes"][mode]
    return (
        "no" if route.startswith("refused") else "yes" if mode in ("record", "influence", "counterfactual") else route
    )


def _exceptions(row: dict[str, Any]) -> str:
    if not row["recordable"]:
        return "not recorded"
    failing = [COLUMNS.get(mode, mode) for mode, route in row["modes"].items() if route.startswith("refused")]
    return f"all but {', '.join(failing)}" if failing else "all"


def _head(headings: list[str]) -> list[str]:
    return [_line(headings), "|---" * len(headings) + "|"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    ROWS.write_text("".join(json.dumps(entry) + "\n" for entry in every_row()))
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), read_rows()))
