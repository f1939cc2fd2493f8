"""Tables about wrong targets that are more than one class a sample, and about suspects in groups."""

from rows import markdown, number, percent, read_rows

METHODS = ("hydragrad", "training alone", "contribution", "influence functions", "loss", "cleanlab", "random")


def targets() -> str:
    """AUC of every setting by every method, mean and range over the seeds."""
    rows, lines = read_rows("targets"), []
    for (problem, noise), part in rows.groupby(["problem", "noise"], sort=False):
        by_method = part.groupby("method").auc
        best = number(by_method.mean().reindex(METHODS).max(), 3)
        cells = [f"{problem}, {noise}"]
        for method in METHODS:
            if method not in by_method.groups:
                cells.append("–")
                continue
            values = by_method.get_group(method)
            low, high = (number(value, 2).removeprefix("0") for value in (values.min(), values.max()))
            mean = number(values.mean(), 3)
            cells.append(f"{f'**{mean}**' if mean == best else mean} ({low} to {high})")
        lines.append(cells)
    headings = ["AUC", "`hg.suspects`", "its `evidence` alone", *METHODS[2:]]
    return markdown(headings, lines)


def groups() -> str:
    """Samples of ten groups, and how many of them are wrong, seed by seed."""
    rows, lines = read_rows("groups"), []
    for order in rows["order"].unique():
        part = rows[rows["order"] == order]
        cells = [f"{row.wrong} of {row.samples}" for row in part.itertuples()]
        shares = part.groupby("data", sort=False)[["wrong", "samples"]].sum()
        lines.append([order, *cells, *(percent(row.wrong / row.samples) for row in shares.itertuples())])
    settings = [f"{row.data}, seed {row.seed}" for row in rows[rows["order"] == rows["order"].iloc[0]].itertuples()]
    return markdown(["wrong among ten", *settings, *rows["data"].unique()], lines)


TABLES = {"targets": targets, "groups": groups}
"""Name in the document → what writes the table."""
