"""What a real kill leaves behind: everything up to the last complete step."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hydragrad as hg
from recording.toys import STEPS, build, loss, same_weights, samples, train

SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from recording import toys

calls = 0

def monitor(model):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}

toys.train(Path(sys.argv[2]), monitor=monitor)
"""


def test_a_killed_run_opens_and_goes_on(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight").trained_model()
    path = tmp_path / "run"
    tests = str(Path(__file__).parents[1])
    killed = subprocess.run([sys.executable, "-c", SCRIPT, tests, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.warns(UserWarning, match="was not completed; it is read up to its last complete step, 10"):
        run = hg.Recording(path, build(), loss, samples())
    assert len(run.steps) == 10
    assert run.final.step == 10
    assert same_weights(train(path, resume=True).trained_model(), straight)


def interrupted(path: Path) -> None:
    """Stop in the monitor of the second epoch, before the manifest says that the run ended."""
    calls = []

    def monitor(model: object) -> dict[str, float]:
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(path, monitor=monitor)


@pytest.mark.parametrize("torn", ["steps.jsonl", "checkpoints.jsonl", "epochs.jsonl"])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, torn: str) -> None:
    straight = train(tmp_path / "straight").trained_model()
    path = tmp_path / "run"
    interrupted(path)
    with open(path / torn, "a") as file:
        file.write('{"step": 10, "indi')
    with pytest.warns(UserWarning, match="last complete step, 10"):
        assert len(hg.Recording(path, build(), loss, samples()).steps) == 10
    run = train(path, resume=True)
    assert len(run.steps) == STEPS
    assert same_weights(run.trained_model(), straight)
