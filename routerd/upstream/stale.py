"""Did a kept-alive connection die before the upstream had the request? Then sending it again repeats nothing.

The race: the upstream closes an idle connection while our request is on its way. An end of file without an answer does not say
whether the request was processed, but TCP does: an acknowledgement rides on every segment, so if the peer's FIN did not
acknowledge our last bytes, the peer did not have the whole request when it closed. If it closed earlier still, its kernel has
answered our bytes with RST, which Linux reports in CLOSE_WAIT as EPIPE (net/ipv4/tcp_input.c, tcp_reset), on the socket or
on the write.
Anything else (a reset without FIN, an acknowledged request) may have been processed and is a failed attempt.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys

__all__ = ["unprocessed"]

# struct tcp_info (linux/tcp.h): 8 bytes of flags, then u32 fields; tcpi_unacked is the fifth.
_UNACKED_OFFSET = 8 + 4 * 4
_LINUX = sys.platform == "linux"


def unprocessed(sock: socket.socket | None) -> bool:
    """Tell, at an end of file without an answer, whether the peer cannot have had the whole request. False when unknown."""
    if sock is None or not _LINUX:
        return False
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE:
            return True
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    except OSError:
        return False
    (unacked,) = struct.unpack_from("I", info, _UNACKED_OFFSET)
    return bool(unacked)
