"""The page in a real browser: what a reader does with it."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from hydragrad.attribution import attribute
from hydragrad.cleaning import suspects
from hydragrad.labelling import import_labels
from hydragrad.reports import report
from hydragrad.scores import Check, Evidence, Method, amounts_of, mean_loss
from hydragrad.training import train

VIEWS = ("overview", "suspects", "explain", "contributions")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def first_card(page):
    return page.locator("#cards [role=option]").first


def selected(page, listing="#cards"):
    return page.locator(f"{listing} [aria-selected=true]")


def sample_of(name):
    """The number in "Sample 17, given label …"."""
    return int(name.removeprefix("Sample ").split(",")[0])


def test_every_view_opens_without_errors_or_requests(opened, path):
    page = opened(path)
    assert page.locator("h1").first.inner_text() == "Training samples that probably carry a wrong label"
    for view in VIEWS:
        page.locator(f"#views a[href='#{view}']").click()
        page.locator(f"#{view}").wait_for()
        assert [each for each in VIEWS if page.locator(f"#{each}").is_visible()] == [view]
        assert page.locator("#views [aria-current=page]").inner_text().lower() == view
    assert page.locator("#training svg path.line").count() == 1, "drawn though its view is not in sight any more"
    assert page.locator("#check-0 svg circle").count() == 9
    page.go_back()
    page.locator("#explain").wait_for()


def test_pictures_are_cut_from_their_sheet(opened, path, run):
    page = opened(path, "#suspects")
    name = first_card(page).get_attribute("aria-label")
    canvas = first_card(page).locator("canvas")
    pixels: list[int] = []
    while not any(pixels):  # until the sheet is decoded
        pixels = canvas.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, 8, 8).data)")
    levels = np.array(pixels).reshape(8, 8, 4)[:, :, 0]
    expected = (run.train_set[sample_of(name)][0][0] * 255).round().numpy()
    np.testing.assert_allclose(levels, expected, atol=1)  # rounded in another precision


def test_filters_and_orders(opened, path, scores):
    page = opened(path, "#suspects")
    assert page.locator("#count").inner_text() == "90 samples"
    values = scores.values[0]
    assert sample_of(first_card(page).get_attribute("aria-label")) == int(values.argmin())
    page.locator("#order").select_option("helpful")
    assert sample_of(first_card(page).get_attribute("aria-label")) == int(values.argmax())
    page.locator("#given").select_option(label="dog")
    assert page.locator("#count").inner_text() == "30 of 90 samples"
    dogs = values[1::3]
    assert sample_of(first_card(page).get_attribute("aria-label")) == 3 * int(dogs.argmax()) + 1
    suggested = scores.suggested_labels()
    page.locator("#suggested").select_option("other")
    assert page.locator("#count").inner_text().startswith(f"{int((suggested[1::3] != 1).sum())} of")
    page.locator("#given").select_option("")
    page.locator("#suggested").select_option("")
    page.locator("#number").fill("88")
    assert page.locator("#count").inner_text() == "1 of 90 samples"
    page.locator("#number").fill("no such")
    assert page.locator("#count").inner_text() == "0 of 90 samples"
    assert page.locator("#cards [role=option]").count() == 0


def test_marks_are_saved_as_files_that_clean_reads(opened, path, run, scores, tmp_path):
    page = opened(path, "#suspects")
    page.locator("#suggested").select_option("other")
    first = first_card(page)
    fixed = sample_of(first.get_attribute("aria-label"))
    first.focus()
    page.keyboard.press("f")  # marks, and goes on
    fine = sample_of(selected(page).get_attribute("aria-label"))
    page.keyboard.press("o")
    by_hand = sample_of(selected(page).get_attribute("aria-label"))
    page.locator("#detail select").select_option(label="eel" if by_hand % 3 != 2 else "cat")
    page.locator("#detail").get_by_role("button", name="Fixed").click()
    assert page.locator("#tally").inner_text() == "3 marked: 2 fixed, 1 fine."
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks (JSON)").click()
    assert download.value.suggested_filename == "tiny-marks.json"
    download.value.save_as(tmp_path / "marks.json")
    marks = import_labels(run, tmp_path / "marks.json")
    assert marks.fixed == {
        fixed: int(scores.suggested_labels()[fixed]),
        by_hand: 2 if by_hand % 3 != 2 else 0,
    }
    assert marks.fine == (fine,)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks (CSV)").click()
    download.value.save_as(tmp_path / "marks.csv")
    table = pd.read_csv(tmp_path / "marks.csv").set_index("sample")
    assert table.loc[fixed, "label"] == marks.fixed[fixed] and table.loc[fine, "mark"] == "fine"
    assert table.loc[fine, "given_name"] == ("cat", "dog", "eel")[fine % 3]
    assert import_labels(run, tmp_path / "marks.csv") == marks

    page.locator("#marked").select_option("fixed")
    assert page.locator("#count").inner_text() == "2 of 90 samples"
    first_card(page).focus()
    page.keyboard.press("u")
    assert page.locator("#tally").inner_text() == "2 marked: 1 fixed, 1 fine."
    page.reload()
    assert page.locator("#tally").inner_text() == "2 marked: 1 fixed, 1 fine.", "the browser keeps them"


def test_predictions_are_explained_from_both_ends(opened, path, explaining):
    page = opened(path, "#explain/test/5")
    box = page.locator("#explained")
    assert "Test sample 5" in box.inner_text()
    values = explaining.values[5]
    helped = box.get_by_role("region", name="Helped most").or_(box.locator("section[aria-label='Helped most']")).first
    shown = [
        int(text)
        for text in helped.locator(".card .text").evaluate_all(
            "e => e.map(x => x.textContent.match(/sample (\\d+)/)[1])"
        )
    ]
    assert shown == values.topk(8).indices.tolist()
    harmed = box.locator("section[aria-label='Harmed most'] .card")
    assert harmed.count() == 8
    harmed.first.click()
    worst = int(values.argmin())
    box.get_by_text(f"Training sample {worst}").first.wait_for()
    assert page.locator("#training-number").input_value() == str(worst)
    column = explaining.values[:, worst] / explaining.values.abs().sum(1)
    back = box.locator("section[aria-label='Test samples that it harmed most'] .card")
    expected = [i for i in column.argsort()[:4].tolist() if column[i] < 0]
    assert [int(href.split("/")[-1]) for href in back.evaluate_all("e => e.map(x => x.hash)")] == expected
    back.first.click()
    box.get_by_text(f"Test sample {expected[0]}").first.wait_for()
    assert f"Test sample {expected[0]}," in selected(page, "#tests").get_attribute("aria-label")
    page.locator("#training-number").fill("7")
    page.keyboard.press("Enter")
    box.get_by_text("Training sample 7").first.wait_for()


def test_contributions_by_class_and_over_time(opened, path, scores):
    page = opened(path, "#contributions")
    rows = page.locator(".class")
    assert rows.count() == 3 and rows.nth(1).locator("h3").inner_text().startswith("dog")
    worst = 3 * int(scores.values[0, 1::3].argmin()) + 1
    extreme = rows.nth(1).locator(".end-card").first
    assert sample_of(extreme.get_attribute("aria-label")) == worst
    lines = page.locator("section[aria-labelledby=time-title] path.line")
    assert lines.count() == 3
    means = 100 * scores.over_time[0].double().mean(1) / scores.values[0].abs().sum()
    page.get_by_text("As a table").last.click()
    cells = page.locator("section[aria-labelledby=time-title] tbody tr").first.locator("td")
    assert float(cells.nth(1).inner_text().replace("−", "-").removesuffix("%")) == pytest.approx(
        float(means[0]), rel=1e-2
    )
    extreme.click()
    page.locator("#suspects").wait_for()
    assert sample_of(selected(page).get_attribute("aria-label")) == worst
    assert page.locator("#detail .over-time rect").count() == 4


def test_everything_by_keyboard(opened, path):
    page = opened(path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#suspects").wait_for()
    first_card(page).focus()
    columns = page.locator("#cards [role=option]").evaluate_all("e => e.filter(x => x.style.top === '0px').length")
    for key, at in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("ArrowUp", 0), ("End", 89)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.ariaPosInSet") == str(at + 1), key
    assert page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight"), (
        "what has focus is in sight"
    )
    page.keyboard.press("1")
    assert page.locator("#tally").inner_text().startswith("1 marked"), "a digit gives the label of that place"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.ariaPosInSet") == "1"
    page.keyboard.press("PageDown")
    assert int(page.evaluate("document.activeElement.ariaPosInSet")) > 1


def test_a_phone_sees_everything(opened, path):
    page = opened(path, **PHONE)
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        page.locator(f"#{view}").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} fits"
    page.evaluate("location.hash = 'suspects'")
    assert not page.locator("#detail").is_visible()
    first_card(page).tap()
    assert page.locator("#detail").is_visible()
    page.locator("#detail .close").tap()
    assert not page.locator("#detail").is_visible()


def test_light_and_dark(opened, path):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened(path, color_scheme=scheme) for scheme in ("light", "dark"))
    on_light, on_dark = light.evaluate(colour), dark.evaluate(colour)
    assert on_light != on_dark
    for page, other in ((light, "Colours: dark"), (dark, "Colours: light")):
        button = page.locator("#theme")
        while button.get_attribute("aria-label") != other:
            button.click()
    assert (light.evaluate(colour), dark.evaluate(colour)) == (on_dark, on_light)


def test_it_prints(opened, path):
    page = opened(path, "#explain")
    printed = page.pdf()
    assert printed.count(b"/Type /Page\n") >= 4, "every view begins a page"
    assert page.locator(".on-paper").count() == 0 and page.locator("#explain").is_visible(), "and all is as it was"
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert all(page.locator(f"#{view}").is_visible() for view in VIEWS)
    assert page.locator("#suspects .on-paper canvas").count() == 48


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_violations(opened, path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python").Axe()
    # The policy would keep axe itself out; what it allows is tested above.
    page = opened(path, color_scheme=scheme, bypass_csp=True)
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        page.locator(f"#{view}").wait_for()
        options = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # all else is the same in the dark
        found = axe.run(page, options=options).response["violations"]
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in found]
        assert not told, f"{view}: {json.dumps(told, indent=1)}"


def test_hostile_text_is_shown_and_inert(opened, run, scores, explaining, tmp_path):
    evil = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><b>"
    page = opened(
        report(
            run,
            replace(scores, query_names=(evil,)),
            tmp_path / "evil.html",
            suspects=suspects(run, scores, signals=None),
            explain=explaining,
            classes=[evil, '" onfocus="window.hacked=1', "javascript:window.hacked=1"],
            render=lambda item: evil,
            accuracies={evil: 0.5},
            checks=[
                {"name": evil, "predicted": [1.0, 2, 3], "actual": [1.0, 2, 3], "unit": evil, "groups": [evil] * 3}
            ],
            title=evil,
        )
    )
    for view in VIEWS:
        page.evaluate("view => { location.hash = view }", view)
        page.locator(f"#{view}").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, b, iframe").count() == 0 and page.locator("script").count() == 2
    page.evaluate("location.hash = 'suspects'")
    assert evil in page.locator("#detail").inner_text()
    assert page.title() == evil


def test_without_pictures_labels_or_explanations(opened, tmp_path):
    """A regression on rows of numbers: no labels to fix, no classes, nothing to explain by."""
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    data, model = TensorDataset(x, x[:, :1]), torch.nn.Linear(4, 1)
    run = train(
        model,
        lambda m, b: ((m(b[0]) - b[1]) ** 2).mean(1),
        data,
        torch.optim.SGD(model.parameters(), lr=0.1),
        epochs=1,
        batch_size=10,
        out=tmp_path / "run",
    )
    scores = attribute(run, mean_loss(data, "loss"))
    page = opened(
        report(run, scores, tmp_path / "rows.html", columns=["age", "height", "weight", "pulse"]), "#suspects"
    )
    assert "age" in first_card(page).inner_text()
    assert not page.locator("#given").is_visible() and not page.locator("#suggested").is_visible()
    for view in ("explain", "contributions"):
        page.evaluate("view => { location.hash = view }", view)
    assert "hg.attribute(run, query, stretches=epochs)" in page.locator("#contributions").inner_text()


def test_fifty_thousand_samples(opened, large):
    path, seconds = large
    assert path.stat().st_size < 15e6
    page = opened(path, "#suspects")
    assert page.locator("#count").inner_text() == "50,000 samples"
    assert page.locator("#cards [role=option]").count() < 150, "only what is in sight is in the page"
    first_card(page).focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.ariaPosInSet") == "50000"
    for tool, value in (("order", "helpful"), ("given", "1"), ("order", "number")):
        took = page.evaluate(
            """([tool, value]) => {
                const select = document.getElementById(tool);
                select.value = value;
                const begin = performance.now();
                select.dispatchEvent(new Event("change"));
                return performance.now() - begin;
            }""",
            [tool, value],
        )
        assert took < 1000 * seconds, f"{tool} took {took:.0f} ms"


def test_standard_errors_stand_beside_contributions(opened, run, scores, explaining, tmp_path):
    values = scores.values.clone()
    values[0, 0], values[0, 1] = -0.5, -3.0
    errors = torch.full_like(values, 0.25)
    errors[0, 1] = 10.0
    some = replace(scores, values=values, standard_errors=errors)
    tests = replace(
        explaining,
        standard_errors=torch.full_like(explaining.values, 0.125),
        evidence=Evidence(method=Method.of("hessian")),
        query_values=explaining.values.abs().max(1).values,
    )
    listed = suspects(run, some, signals=None)
    page = opened(report(run, some, tmp_path / "report.html", suspects=listed, explain=tests), "#suspects")
    assert "± its standard error in percent" in page.locator("#suspects-lead").inner_text()

    page.locator("#number").fill("0")
    value, error = (100 * part / float(values[0].abs().sum()) for part in (0.5, 0.25))
    assert f"contribution −{value:.3f}%\u00a0±\u00a0{error:.3f}%" in first_card(page).get_attribute("aria-label")
    assert "harms" in page.locator("#detail dl").inner_text()
    page.locator("#number").fill("1")
    page.locator("#order").select_option("number")
    assert "may be nothing" in page.locator("#detail dl").inner_text()

    page.locator("#number").fill("")
    page.locator("#order").select_option("certain")
    ratio = values[0] / errors[0]
    assert sample_of(first_card(page).get_attribute("aria-label")) == int(ratio.argmin())

    page.locator("#views a[href='#explain']").click()
    for _ in range(2):  # training samples that moved a test sample, then test samples that a training sample moved
        value, percent = page.locator("#explained .movers .number.helps").first.inner_text().split(" ±")
        assert abs(int(percent.removesuffix("%")) - 12.5 / float(value)) <= 1
        page.locator("#explained .movers a").first.click()


def test_no_errors_no_plus_minus(opened, path):
    page = opened(path, "#suspects")
    assert "±" not in page.content().split("<script")[0]
    assert "±" not in first_card(page).inner_text()
    assert page.locator("#order option[value=certain]").count() == 0


def test_what_leaving_samples_out_will_do_is_predicted_with_its_interval(opened, run, scores, tmp_path):
    generator = torch.Generator().manual_seed(0)
    groups = [
        torch.randperm(len(scores.sample_ids), generator=generator)[:size].tolist() for size in (5, 9, 14, 20, 3, 7)
    ]
    predicted = [float(scores.total(group)) for group in groups]
    actual = [
        0.5 * value + 0.01 * len(group) + noise
        for value, group, noise in zip(predicted, groups, (0.02, -0.01, 0.03, -0.02, 0.01, -0.03), strict=True)
    ]
    check = Check(
        unit=scores.query_names[0],
        curvature="none",
        predicted=tuple(predicted),
        actual=tuple(actual),
        group_sizes=tuple(map(len, groups)),
    )
    measured = scores.with_evidence(scores.evidence.with_checks([check]))
    calibration = amounts_of(measured, 0).calibration
    listed = suspects(run, measured, signals=None)
    page = opened(report(run, measured, tmp_path / "report.html", suspects=listed), "#suspects")
    page.locator("#leave").fill("8")
    change, low, high = calibration.change(float(measured.total(listed["sample"][:8].tolist())), 8)
    words = page.locator("#left-out").inner_text().replace("−", "-")
    numbers = [float(number) for number in re.findall(r"[-+]\d[\d.]*", words)]
    assert numbers == pytest.approx([change, low, high], rel=6e-3)
    how = page.locator("#removal-how").inner_text()
    assert "at the scale of 6 groups that were really left out, where the other samples keep their weight" in how
    page.locator("#leave").fill("100000")
    assert f"Trained without these {len(scores.sample_ids) - 1}," in page.locator("#left-out").inner_text()
    other = page.locator("#detail select option:not(:checked)").first.get_attribute("value")
    page.locator("#detail select").select_option(other)
    page.locator("#detail").get_by_role("button", name="Fixed").click()
    assert "Trained without those to be fixed" in page.locator("#tally").inner_text()
    card = first_card(page).locator(".number").inner_text().replace("−", "-")
    own = scores.values[0, sample_of(first_card(page).get_attribute("aria-label"))]
    assert float(card) == pytest.approx(calibration.scale * float(own), rel=6e-3), "in the unit of the query"


def test_without_a_measured_scale_no_change_is_predicted(opened, path):
    assert opened(path, "#suspects").locator("#removal").is_hidden()
