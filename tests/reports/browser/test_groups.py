"""Groups of suspects and near duplicates in a real browser: a whole group is marked at once."""

import json

import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from hydragrad.cleaning import suspects
from hydragrad.labelling import import_labels
from hydragrad.reports import report

NAMES = ("cat", "dog", "eel")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def grouped(ranked):
    """The suspects of every pair of labels as one group, and one sample by itself."""
    wrong = ranked[ranked["given_label"] != ranked["suggested_label"]]
    rows = [
        {
            "given": given,
            "suggested": suggested,
            "size": len(part),
            "agreement": 0.75,
            "suspicion": 1.0,
            "contribution": float(part["contribution"].sum()),
            "representatives": tuple(part["sample"].tolist()[-3:]),
            "samples": tuple(part["sample"]),
        }
        for (given, suggested), part in wrong.groupby(["given_label", "suggested_label"])
    ]
    return pd.DataFrame(rows).sort_values("contribution", ignore_index=True)


def pairs(rows, held_out):
    names = ("sample", "other", "same_input", "nearness", "gradient_cosine", "input_cosine")
    frame = pd.DataFrame(rows, columns=names)
    frame.attrs["held_out"] = held_out
    return frame


@pytest.fixture(scope="module")
def ranked(run, scores):
    return suspects(run, scores, signals=None)


@pytest.fixture(scope="module")
def page_of_groups(run, scores, ranked, tmp_path_factory):
    held_out = TensorDataset(run.train_set.tensors[0][:5].clone(), torch.tensor([0, 1, 2, 0, 2]))
    return report(
        run,
        scores,
        tmp_path_factory.mktemp("groups") / "report.html",
        suspects=ranked,
        groups=grouped(ranked),
        duplicates=pairs([(3, 7, False, 0.9, 0.95, 0.947), (4, 7, False, 0.8, float("nan"), 0.8)], False),
        leaks=pairs([(1, 1, True, 1.0, 1.0, 1.0), (4, 4, True, 1.0, 0.5, 1.0)], True),
        test_set=held_out,
        classes=NAMES,
        thumbnails=10,
    )


def boxes(page):
    return page.locator("#group-list .group")


def test_one_button_marks_a_whole_group_and_the_marks_train_with_clean(
    opened, page_of_groups, ranked, run, scores, tmp_path
):
    groups = grouped(ranked)
    page = opened(page_of_groups, "#groups")
    assert boxes(page).count() == len(groups)
    first, second = boxes(page).nth(0), boxes(page).nth(1)
    samples = set(groups["samples"][0])
    name = NAMES[groups["suggested"][0]]
    assert f"{NAMES[groups['given'][0]]} → {name}" in first.inner_text()
    assert f"{len(samples)} samples" in first.inner_text() and "agreement 0.75" in first.inner_text()
    first.get_by_role("button", name=f"Fix all {len(samples)} → {name}").click()
    assert f"✎ {len(samples)} fixed of {len(samples)}" in first.inner_text()
    second.get_by_role("button", name="are fine").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks (JSON)").click()
    download.value.save_as(tmp_path / "marks.json")
    marks = import_labels(run, tmp_path / "marks.json")
    assert marks.fixed == dict.fromkeys(samples, int(groups["suggested"][0]))
    assert set(marks.fine) == set(groups["samples"][1])
    page.evaluate("location.hash = 'suspects'")
    page.locator("#marked").select_option("fixed")
    assert page.locator("#count").inner_text().startswith(f"{len(samples)} of"), "they are marks like any other"


def test_a_group_shows_its_representatives_first_and_all_samples_on_request(opened, page_of_groups, ranked):
    groups = grouped(ranked)
    page = opened(page_of_groups, "#groups")
    first = boxes(page).first
    shown = lambda: [int(text) for text in first.locator(".members .quiet").all_inner_texts()]  # noqa: E731
    assert shown()[:3] == list(groups["representatives"][0]) and len(shown()) == 5
    first.get_by_role("button", name="Show all").click()
    assert sorted(shown()) == sorted(groups["samples"][0])
    page.locator("#group-size").select_option("5")
    large = int((groups["size"] >= 5).sum())
    assert boxes(page).count() == large
    first.locator(".members a").first.click()
    page.locator("#suspects").wait_for()
    assert f"Sample {groups['representatives'][0][0]}" in page.locator("#detail").inner_text()


def test_groups_are_judged_by_keyboard_alone(opened, page_of_groups):
    page = opened(page_of_groups, "#groups")
    boxes(page).first.focus()
    page.keyboard.press("f")
    assert "fixed" in boxes(page).first.locator(".mark").last.inner_text()
    on = lambda: page.evaluate("document.activeElement.dataset.place")  # noqa: E731
    assert on() == "1", "the focus moves on"
    page.keyboard.press("o")
    page.keyboard.press("ArrowUp")
    assert on() == "1" and "fine" in boxes(page).nth(1).locator(".mark").last.inner_text()
    page.keyboard.press("u")
    assert boxes(page).nth(1).locator(".mark").last.text_content() == ""
    page.locator("#group-marks").select_option("open")
    assert boxes(page).first.get_attribute("data-place") == "1"


def test_pairs_show_both_samples_and_whether_their_labels_differ(opened, page_of_groups):
    page = opened(page_of_groups, "#duplicates")
    leaks = page.locator("section[aria-label='Training samples in the test set'] .pair")
    assert leaks.count() == 2
    assert leaks.first.locator("canvas").count() == 2
    assert "= equal inputs" in leaks.first.inner_text() and "differ" not in leaks.first.inner_text()
    assert "the labels differ" in leaks.nth(1).inner_text() and "test 4" in leaks.nth(1).inner_text()
    inside = page.locator("section[aria-label='Twice in the training set'] .pair")
    assert "nearness 0.900" in inside.first.inner_text() and "gradients 0.950" in inside.first.inner_text()
    assert "gradients" not in inside.nth(1).inner_text(), "a cosine that there is not is not shown"
    inside.first.locator("a").nth(1).click()
    page.locator("#suspects").wait_for()
    assert "Sample 7" in page.locator("#detail").inner_text()


def test_without_groups_and_pairs_there_are_no_such_views(opened, path):
    page = opened(path, "#groups")
    assert page.locator("#overview").is_visible()
    assert not page.locator("#views a[href='#groups']").is_visible()
    assert not page.locator("#views a[href='#duplicates']").is_visible()


def test_nothing_is_wider_than_a_phone(opened, page_of_groups):
    for view in ("groups", "duplicates"):
        page = opened(page_of_groups, f"#{view}", **PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_groups_and_pairs_are_accessible(opened, page_of_groups, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    page = opened(page_of_groups, "#groups", color_scheme=scheme, bypass_csp=True)
    boxes(page).first.focus()
    page.keyboard.press("f")
    for view in ("groups", "duplicates"):
        page.evaluate("view => { location.hash = view }", view)
        page.locator(f"#{view}").wait_for()
        found = axe.run(page).response["violations"]
        told = [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
        assert not told, f"{view}: {json.dumps(told, indent=1)}"
