"""Every error that hydragrad raises on purpose:

    HydragradError
    ├── RunExists            (FileExistsError)   a run directory is already there, or being written
    ├── RunNotFound          (FileNotFoundError) no run directory is there
    ├── RunDamaged           (ValueError)        truncated or altered files of a run
    ├── RecordingMismatch    (ValueError)        another model, loss, data set or schema than recorded
    ├── ReplayMismatch       (RuntimeError)      a replayed step differs from the recorded one
    ├── StepError            (RuntimeError)      a step block that does not hold exactly one optimizer step
    ├── NonFinite            (ArithmeticError)   NaN or infinity in a batch, a loss or the weights
    ├── LossError            (ValueError)        the loss is not one number per sample, or not what a method needs
    ├── Unsupported          (NotImplementedError) an optimizer, module, precision or state that is refused
    ├── WorkerLost           (RuntimeError)      workers that were killed again and again
    ├── Unfinished           (RuntimeError)      a slice of a job is done, other slices are not
    ├── QueryError           (ValueError)        a query or a sample id that cannot be answered
    ├── DiskFull             (OSError)           a write failed, or would fail, for lack of space
    ├── NotWritable          (PermissionError)   a folder or file that may not be, or can't be, written
    ├── NotEnoughMemory      (MemoryError)       rows that would not fit into memory
    ├── PresentationError    (ValueError)        values that a figure or a report cannot show
    ├── MarksInvalid         (ValueError)        marks of labels that do not fit the run
    ├── CheckpointNotFound   (FileNotFoundError) a checkpoint that is not there
    ├── CheckpointError      (ValueError)        a checkpoint that can't be read, or does not fit the model
    ├── UnknownName          (ValueError)        a name that is not among the known ones
    ├── TorchTooOld          (ImportError)       a release of torch that lacks what is needed
    ├── FrameworkMissing     (ImportError)       a framework that an integration needs is not installed
    └── DataError            (ValueError)        a data set that cannot be trained on
        ├── DataNotFound     (FileNotFoundError) a data file is missing
        └── ChecksumMismatch                     a data file is not the published one

Each message says what was expected, what was found, and what to do.
"""


class HydragradError(Exception):
    """Base of every error that hydragrad raises on purpose."""


class RunExists(HydragradError, FileExistsError):
    """A run directory that would be overwritten, or that another process is writing."""


class RunNotFound(HydragradError, FileNotFoundError):
    """A run directory, or a file of it, that is not there."""


class RunDamaged(HydragradError, ValueError):
    """Files of a run that are truncated or altered."""


class RecordingMismatch(HydragradError, ValueError):
    """A model, loss, data set or schema other than the recorded one."""


class ReplayMismatch(HydragradError, RuntimeError):
    """A replayed step that differs from the recorded one."""


class StepError(HydragradError, RuntimeError):
    """A step block that does not hold exactly one plain optimizer step."""


class NonFinite(HydragradError, ArithmeticError):
    """NaN or infinity in a batch, a loss or the weights."""


class LossError(HydragradError, ValueError):
    """A loss that is not one number per sample, or not of the form that a method needs."""


class Unsupported(HydragradError, NotImplementedError):
    """An optimizer, module, precision or state that would give silently wrong derivatives."""


class WorkerLost(HydragradError, RuntimeError):
    """Workers that were killed again and again, so that a job did not come to its end."""


class Unfinished(HydragradError, RuntimeError):
    """This call's slice is done, and nothing is wrong: results of other slices are still missing."""


class QueryError(HydragradError, ValueError):
    """A query or a sample id that cannot be answered."""


class DiskFull(HydragradError, OSError):
    """A write that failed, or would fail, for lack of space."""


class NotWritable(HydragradError, PermissionError):
    """A folder or file that may not be written, or whose path leads through a file."""


class NotEnoughMemory(HydragradError, MemoryError):
    """Rows that would not fit into memory; says how many do."""


class PresentationError(HydragradError, ValueError):
    """Values that a figure or a report cannot show."""


class MarksInvalid(HydragradError, ValueError):
    """A file of marked labels that cannot be read or does not fit the run."""


class CheckpointNotFound(HydragradError, FileNotFoundError):
    """A checkpoint of a model trained elsewhere that is not there."""


class CheckpointError(HydragradError, ValueError):
    """A checkpoint of a model trained elsewhere that can't be read, or does not fit the model."""


class UnknownName(HydragradError, ValueError):
    """A name that is not among the known ones."""


class TorchTooOld(HydragradError, ImportError):
    """A release of torch that is older than the oldest that works."""


class FrameworkMissing(HydragradError, ImportError):
    """A framework that an integration needs, and that is not installed."""


class DataError(HydragradError, ValueError):
    """A data set that cannot be trained on."""


class DataNotFound(DataError, FileNotFoundError):
    """A data file that is missing."""


class ChecksumMismatch(DataError):
    """A data file that is not the published one."""
