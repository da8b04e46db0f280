"""The `repertory` command, also as `python -m repertory`.

It prepares for Ctrl-C before it imports anything else.
"""

import signal

from repertory.interrupts import stop_at_once


def main() -> None:
    signal.signal(signal.SIGINT, stop_at_once)
    from repertory.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
