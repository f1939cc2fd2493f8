"""Tables about wrong targets that are more than one class a sample."""

from rows import markdown, number, read_rows

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


TABLES = {"targets": targets}
"""Name in the document → what writes the table."""
