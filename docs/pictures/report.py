"""The report in a browser: those of the demos, and that of MNIST with a tenth of the labels wrong, 50,000 samples.

Needs a browser (chromium, or what HYDRAGRAD_BROWSER names), and the files of MNIST and names (HYDRAGRAD_DATA, else
downloaded).
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from hydragrad.cli.commands.demo import run_demo
from hydragrad.cli.commands.demo_text import run_text_demo
from hydragrad.experiments.from_settings import build_experiment
from hydragrad.experiments.run_report import write_report
from hydragrad.experiments.saved_scores import saved_or_computed
from hydragrad.experiments.settings import Settings
from hydragrad.experiments.training import record
from hydragrad.scores import Method
from hydragrad.tracking import hypergradients
from hydragrad.tracking.facts import FILE

SETTINGS = Settings(data="mnist", model="lenet5", noise=0.1, epochs=2)
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

SHOTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "demo-report.png": ("demo", "overview", DESKTOP),
    "report-suspects.png": ("mnist", "suspects", DESKTOP),
    "report-explain.png": ("mnist", "explain", DESKTOP),
    "report-training-sample.png": ("mnist", "explain/train/WORST", DESKTOP),
    "report-contributions.png": ("mnist", "contributions", DESKTOP | {"color_scheme": "dark"}),
    "text-suspects.png": ("text", "suspects", DESKTOP),
    "text-explain.png": ("text", "explain", DESKTOP),
    "report-phone.png": ("mnist", "suspects/WORST", PHONE),
}
"""Picture: which report, which view, how it is looked at. WORST is the first suspect."""


def make(pictures: Path, runs: Path) -> list[Path]:
    """Train, attribute, write the reports, and look at them."""
    pages = {"demo": _demo(runs / "demo"), "mnist": _mnist(runs / "mnist"), "text": _text(runs / "text")}
    return photographed(SHOTS, pages, pictures)


def photographed(
    shots: Mapping[str, tuple[str, str, dict[str, Any]]], pages: Mapping[str, Path], pictures: Path
) -> list[Path]:
    """Take pictures of reports, as `SHOTS` says, into the folder `pictures`."""
    browser = os.environ.get("HYDRAGRAD_BROWSER") or shutil.which("chromium")
    if browser is None:
        sys.exit("The report's pictures need a browser: install chromium, or let HYDRAGRAD_BROWSER name one.")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=SWITCHES)
        for name, (report, view, look) in shots.items():
            page = opened.new_context(**look).new_page()
            page.goto(pages[report].as_uri())
            worst = page.locator("#cards [role=option]").first
            page.evaluate("view => { location.hash = view }", "suspects")
            number = worst.get_attribute("aria-label").split(",")[0].removeprefix("Sample ")
            page.evaluate("view => { location.hash = view }", view.replace("WORST", number))
            page.wait_for_timeout(500)  # until sheets of pictures are decoded
            page.screenshot(path=pictures / name)
        opened.close()
    return [pictures / name for name in shots]


def _demo(out: Path) -> Path:
    page = out / "report.html"
    if not page.exists():
        run_demo(out)
    return page.absolute()


def _text(out: Path) -> Path:
    page = out / "report.html"
    if not page.exists():
        run_text_demo(out, _data())
    return page.absolute()


def _mnist(out: Path) -> Path:
    experiment = build_experiment(SETTINGS, data_dir=_data(), run=out if out.exists() else None)
    run = record(experiment, out, resume=True)
    scores = saved_or_computed(experiment, run, "validation", Method())
    if not (out / "store" / FILE).exists():
        hypergradients(run, projection=2048, store=out / "store")
    return write_report(experiment, run, scores, out / "report.html").absolute()


def _data() -> Path | None:
    return Path(os.environ["HYDRAGRAD_DATA"]) if "HYDRAGRAD_DATA" in os.environ else None
