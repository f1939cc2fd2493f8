"""Ctrl-C, noticed even where the user's loop catches it: the loop may then be anywhere between two steps."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interruption:
    """Notes SIGINT inside a block; KeyboardInterrupt is raised as usual.

    A handler of the user's own stays in place: code that handles Ctrl-C without the exception chooses itself where the
    loop ends.

    Attributes:
        noticed: Whether SIGINT arrived since this was last set to False.
    """

    def __init__(self) -> None:
        self.noticed = False
        self._watching = False

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        self._watching = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._watching:
            signal.signal(signal.SIGINT, self._handler)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._watching and signal.getsignal(signal.SIGINT) == self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._watching = False

    def _handler(self, number: int, frame: FrameType | None) -> Any:
        self.noticed = True
        signal.default_int_handler(number, frame)
