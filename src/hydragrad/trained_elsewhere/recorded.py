"""What needs a recorded run, refused by name where only checkpoints are left."""

from typing import Any

from hydragrad.errors import Unsupported
from hydragrad.trained_elsewhere.opened import Checkpoints


def require_recorded(run: Any, function: str) -> None:
    """Refuse checkpoints of a model trained elsewhere where the steps of the training are needed.

    Args:
        run: What the caller gave.
        function: Name of the public function, for the message.

    Raises:
        Unsupported: It is a `Checkpoints`.
    """
    if isinstance(run, Checkpoints):
        raise Unsupported(
            f"hg.{function} needs a recorded run, to repeat its steps: their samples, rates and seeds. Checkpoints of "
            f"a model trained elsewhere hold weights alone. Record the training (hg.train or hg.Recorder), or take "
            f"hg.influence, hg.influence_rows, hg.suspects and hg.report, which need no more than weights."
        )
