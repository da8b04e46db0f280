"""Ctrl-C ends in one line and exit status 130, at any moment.

Until work begins there is nothing to lose, and the process ends at once: amid an import, too, where a library may catch
a KeyboardInterrupt or turn it into another error. Work is interrupted by KeyboardInterrupt, so that files are left
whole and worker processes are ended.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STATUS = 130
"""128 + SIGINT, as shells report it."""


def stop_at_once(*_: Any) -> None:
    """Handler of SIGINT before and after work."""
    os.write(2, b"interrupted\n")
    os._exit(STATUS)


@contextmanager
def interruptible(message: str = "interrupted") -> Iterator[None]:
    """Work that Ctrl-C interrupts: `message` on stderr, exit status 130, whatever exception comes of the interrupt."""
    pressed = False

    def interrupt(*_: Any) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def ignored(what: Any) -> None:
        if isinstance(what.exc_value, KeyboardInterrupt):  # it hit a destructor, where Python drops it: once more, soon
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
        elif not pressed:
            sys.__unraisablehook__(what)

    handler, hook = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = ignored
    try:
        yield
    except BaseException as error:
        if not pressed and not isinstance(error, KeyboardInterrupt):
            raise
        print(message, file=sys.stderr, flush=True)
        raise SystemExit(STATUS) from None
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook
