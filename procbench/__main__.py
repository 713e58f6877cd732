"""``procbench`` and ``python -m procbench``: the way in to the command line."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is being loaded ends the process without a word, as it ends any other program."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from procbench import cli

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
