import socket

import pytest

from hydragrad.errors import Unsupported
from hydragrad.execution.ray_address import cluster_address


@pytest.fixture
def answering():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silent():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return address


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_a_cluster_that_answers_is_taken(answering, monkeypatch):
    assert cluster_address(answering) == answering
    assert cluster_address(f"ray://{answering}") == f"ray://{answering}"
    assert cluster_address("auto") == "auto"
    assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", answering)
    assert cluster_address(None) == answering


def test_an_address_where_nothing_answers_is_refused_at_once(silent, monkeypatch):
    with pytest.raises(Unsupported, match=f"nothing answers at {silent}"):
        cluster_address(silent)
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(Unsupported, match="RAY_ADDRESS unset"):
        cluster_address(None)


def test_a_cluster_of_this_machine_that_was_killed_is_not_waited_for(silent, answering, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(silent)
    assert cluster_address(None) == "local"
    (tmp_path / "ray" / "ray_current_cluster").write_text(answering)
    assert cluster_address(None) is None
