"""`hydragrad report`: what of a run directory goes into the page."""

from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained
from reports.test_report import Page


def test_the_page_explains_by_what_lies_in_the_run(hydragrad, trained, tmp_path):
    page = tmp_path / "page.html"

    def data():
        code, _, err = hydragrad("report", trained, "--out", page, "--quiet")
        assert code == 0, err
        return Page(page)

    how = data().data["explain"]["how"]
    assert f"hydragrad explain {trained} --test 0; hydragrad report {trained}" in how
    for number in (3, 7):
        assert hydragrad("attribute", trained, "--query", f"test:{number}", "--quiet")[0] == 0
    told = data()
    assert sorted(told.column("explain", "tests", "id").tolist()) == [3, 7]
    assert told.data["time"]["unit"] == "epoch" and len(told.data["time"]["ends"]) == 2
    assert hydragrad("explain", trained, "--test", 0, "--projection", 64, "--quiet")[0] == 0
    told = data()
    assert len(told.column("explain", "tests", "id")) == 300
    wrong, of = told.data["explain"]["misclassified"]
    assert 0 < wrong <= of
    assert told.data["shown"]["test"]["pictures"]
