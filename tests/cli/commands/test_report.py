"""`hydragrad report` with groups of suspects and near duplicates."""

import base64
import json

import numpy as np

from cli.test_app import hydragrad as hydragrad
from cli.test_app import trained as trained


def test_it_shows_groups_and_duplicates_on_request(hydragrad, trained, tmp_path):
    page = tmp_path / "page.html"
    code, _, err = hydragrad("report", trained, "--groups", "--duplicates", "--out", page, "--quiet")
    assert not code, err
    text = page.read_text()
    data = json.loads(text.split('<script type="application/json"')[1].split(">", 1)[1].split("</script>")[0])
    groups = [np.frombuffer(base64.b64decode(group["samples"]["u4"]), "<u4").tolist() for group in data["groups"]]
    members = [sample for group in groups for sample in group]
    assert len(members) == len(set(members)) > 5
    assert data["duplicates"] and data["leaks"]
    assert hydragrad("report", trained, "--out", page, "--quiet")[0] == 0
    assert '<section id="groups"' not in page.read_text()
