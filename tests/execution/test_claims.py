import subprocess
import sys

from hydragrad.execution.claims import Claims, claimed, exclusive
from hydragrad.execution.part import Part

HOLDS = """
import sys
from pathlib import Path
from hydragrad.execution.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take("job"), flush=True)
sys.stdin.read()
"""


def test_a_job_has_one_claim_until_it_is_dropped(tmp_path):
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        assert ours.take("a") and theirs.take("b")
        assert not theirs.take("a") and not ours.take("b")
        ours.drop("a")
        assert theirs.take("a")
    assert list(tmp_path.rglob("*.lock")) == []


def test_a_killed_process_claims_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process, Claims(tmp_path) as claims:
        assert process.stdout.readline().strip() == "True"
        assert not claims.take("job")
        process.kill()
        process.wait()
        assert claims.take("job")


def test_slices_take_what_nobody_works_on(tmp_path):
    names = ["a", "b", "c", "d"]
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        assert theirs.take("c")
        assert list(claimed(range(4), names, Part(number=2, count=2), ours)) == [1, 3, 0]
        assert list(claimed(range(4), names, None, ours)) == [0, 1, 2, 3], "a call that is no slice does everything"


def test_a_folder_that_takes_no_locks_holds_nobody_up(tmp_path):
    (tmp_path / "claims").write_text("a file in the way")
    with Claims(tmp_path) as claims:
        assert claims.take("a") and claims.take("a")
        claims.drop("a")
    with exclusive(tmp_path / "nowhere"):
        pass


def test_one_process_at_a_time_is_in_an_exclusive_block(tmp_path):
    with exclusive(tmp_path, "joining"):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
