"""Jobs whose results are files: what is there is read, what is missing is done, and each result is saved as it comes.

An interrupted call is resumed by the next one, whatever executor it takes; processes that each do a slice of the jobs
meet in the files. A slice's own jobs come first, then those that are missing and that no process works on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch import Tensor

from hydragrad.errors import NotWritable, Unfinished
from hydragrad.execution import Execution, run_jobs
from hydragrad.execution.claims import Claims, claimed
from hydragrad.execution.part import Part
from hydragrad.runs.kept import Kept

Job = TypeVar("Job")
Tensors = dict[str, Tensor]


def kept_jobs(
    work: Callable[[Job], Tensors],
    jobs: Sequence[Job],
    files: Sequence[Kept],
    execution: Execution,
    what: str,
    *,
    first: Callable[[], None] = lambda: None,
    ended: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Tensors]]:
    """Yield (number of the job, its result): first what is saved, then results as they end.

    Args:
        work, jobs: As `run_jobs` takes them.
        files: Where each job's result lies; all in one folder.
        execution: Where jobs run, and which slice this call does.
        what: The results in the plural, for the message.
        first: Called before the first job, where any is missing.
        ended: Called when a job has ended that was not saved before.

    Raises:
        Unfinished: This call is a slice, and results that other processes work on are missing.
        NotWritable: This call is a slice, and its results can't be saved.
    """
    missing = []
    for number, file in enumerate(files):
        saved = file.read()
        if saved is None:
            missing.append(number)
        else:
            yield number, saved[0]
    if not missing:
        return
    first()
    with Claims(files[missing[0]].path.parent) as claims:
        yield from _done(work, jobs, files, missing, execution, claims, ended)
        if execution.part is None:
            return
        absent = 0
        for number in missing:
            saved = files[number].read()
            absent += saved is None
            if saved is not None:
                yield number, saved[0]
    if absent:
        raise Unfinished(unfinished(execution.part, absent, len(jobs), what))


def unfinished(part: Part, absent: int, count: int, what: str) -> str:
    """Says that a slice is done and the others are not."""
    return (
        f"Part {part} is done; {absent} of {count} {what} are still missing, and other processes work on them. The one "
        f"that ends last has the result; once none is left, call again, with part= or without."
    )


def _done(
    work: Callable[[Job], Tensors],
    jobs: Sequence[Job],
    files: Sequence[Kept],
    missing: Sequence[int],
    execution: Execution,
    claims: Claims,
    ended: Callable[[], None],
) -> Iterator[tuple[int, Tensors]]:
    """Do the missing jobs; those of a slice are saved and not yielded: they are read with those of others."""
    part, started = execution.part, list[int]()
    names = [file.path.stem for file in files]

    def waiting() -> Iterator[Job]:
        for number in claimed(missing, names, part, claims):
            if part is not None and files[number].read() is not None:  # done since the call began
                claims.drop(names[number])
                continue
            started.append(number)
            yield jobs[number]

    for place, result in run_jobs(work, waiting(), execution):
        number = started[place]
        saved = files[number].write(result)
        claims.drop(names[number])
        ended()
        if part is None:
            yield number, result
        elif not saved:
            raise NotWritable(
                f"{files[number].path} must be written, since slices meet there. Make room, or change permissions."
            )
