"""What the commands found, as a person reads it."""

from hydragrad.cli import jobs
from hydragrad.cli.console import columns, number, percent, say, table
from hydragrad.scores import Check
from hydragrad.scores.checks import Interval
from hydragrad.trust import ApproximationError


def show_verified(verified: jobs.Verified) -> None:
    """Print what each check measured and means."""
    for check in verified.checks:
        if check.kind == "random":
            rows = {
                "LDS (Spearman over groups)": _with_interval(check.lds, check.lds_interval),
                **_ceiling(check),
                "actual over predicted": f"{number(check.scale)} (slope with an offset: {number(check.slope)})",
                "same sign": percent(check.sign_agreement),
                "picture": str(verified.pictures[check.size]),
            }
            table(check.name, rows)
            say(check.sentence)
        else:
            words = ("most harmful", "most helpful")
            for word, predicted, actual in zip(words, check.predicted, check.actual, strict=False):
                which = f"{word} sample" if check.size == 1 else f"{check.size:,} {word} samples"
                say(f"the {which} left out: predicted {predicted:+.3g}, actual {actual:+.3g}")


def _ceiling(check: Check) -> dict[str, str]:
    if check.ceiling_interval is None:
        return {}
    return {"of a repeat, one rounding apart": _with_interval(check.ceiling_lds, check.ceiling_interval)}


def _with_interval(value: float | None, interval: Interval) -> str:
    return f"{_correlation(value)} [{', '.join(map(_correlation, interval))}]"


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus before zero


def show_bound(found: ApproximationError) -> None:
    """Print the error over time and what it means."""
    headings = ("step", "error", "relative", "Spearman", "wrong sign", "Σ|κ||H∇|", "L M Σ|κ|")
    rows = [
        (
            f"{point.step:,}",
            number(point.error),
            number(point.relative_error),
            number(point.spearman),
            percent(point.sign_disagreements),
            number(point.measured_bound),
            number(point.bound),
        )
        for point in found.points
    ]
    columns("hypergradients without curvature against exact ones", headings, rows)
    last = found.points[-1]
    say(f"sampled: L = {number(last.largest_eigenvalue)} (Hessian), M = {number(last.largest_hypergradient)}")
    say(found.sentence)


def show_cleaned(found: jobs.Cleaned) -> None:
    """Print what cleaning found."""
    figures = found.figures
    action = "relabelled" if figures["relabelled"] else "removed"
    rows = {action: f"{found.changed:,} of {figures['samples']:,} samples ({percent(figures['share'])}, {found.how})"}
    if "auc" in figures and figures["auc"] is not None:
        rows |= {
            "flipped labels ranked above others": f"AUC {figures['auc']:.3f}",
            "flips found in the first 10 % / 20 %": f"{percent(figures['found_in_first_10_percent'])} / "
            f"{percent(figures['found_in_first_20_percent'])}",
        }
    if "marks_right" in figures:
        rows["labels fixed by hand that are right"] = percent(figures["marks_right"])
    if "suggested_labels_right" in figures:
        rows["suggested labels that are right"] = percent(figures["suggested_labels_right"])
    rows |= {f"test accuracy, {name}": percent(value) for name, value in found.accuracies.items()}
    table("cleaned", rows)
    if found.warning is not None:
        say(found.warning)
