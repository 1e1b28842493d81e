"""Where the `routerd` script begins: Ctrl-C while Python still imports ends it as it ends any program, without a traceback.

Imports of a command take some tenths of a second; what is interrupted in the middle of one has nothing to clean up. After that
the command itself takes the interrupt as a KeyboardInterrupt or, serving, as the order to drain.
"""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> int:
    """Run the command line; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from routerd.daemon.cli import main as command

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()
