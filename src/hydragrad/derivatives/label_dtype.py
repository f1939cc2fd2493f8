"""Labels of a dtype that torch's cross-entropy does not take."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydragrad.errors import LossError

TORCH_SAYS = re.compile(r"expected target dtype|expected scalar type Long but found|nll_loss\w*\" not implemented for")


@contextmanager
def naming_label_dtype() -> Iterator[None]:
    """Turn torch's refusal of a dtype inside the block into one that says what to do.

    Raises:
        LossError: A loss got labels of another dtype than it takes.
    """
    try:
        yield
    except RuntimeError as error:
        if not TORCH_SAYS.search(str(error)):
            raise
        reason = str(error).splitlines()[0].rstrip(".")
        raise LossError(
            f"The loss needs labels of the dtype that it takes: int64 (or uint8) class numbers, or floating-point "
            f"rows of the logits' dtype; torch says: {reason}. Cast them in the loss: batch[1].long(), where batch[1] "
            f"is the label."
        ) from error
