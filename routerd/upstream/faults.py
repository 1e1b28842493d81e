"""Exceptions of sockets, TLS and the HTTP parser -> UpstreamError. The one place that knows them.

The messages are for clients: they name no host, no address and no credential.
"""

from __future__ import annotations

import errno
import socket
import ssl

from routerd.errors import Delivery, ErrorKind, UpstreamError

__all__ = ["busy_fault", "dial_fault", "lost_fault", "protocol_fault", "stale_fault", "timeout_fault"]


def dial_fault(exc: BaseException) -> UpstreamError:
    """Say why a connection could not be opened. Nothing was sent in any of these cases."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = exc.verify_message.partition(", certificate is not valid for")[0]  # the name of the host would follow
        return _not_sent(ErrorKind.TLS, f"the upstream's certificate was not accepted ({reason})")
    if isinstance(exc, ssl.SSLError):
        return _not_sent(ErrorKind.TLS, f"the TLS handshake with the upstream failed ({exc.reason or 'no reason given'})")
    if isinstance(exc, TimeoutError):
        return _not_sent(ErrorKind.TIMEOUT, "the upstream did not accept a connection in time")
    if isinstance(exc, socket.gaierror):
        return _not_sent(ErrorKind.CONNECT, "the upstream's name does not resolve")
    if isinstance(exc, ConnectionRefusedError):
        return _not_sent(ErrorKind.CONNECT, "the upstream refused the connection")
    reason = errno.errorcode.get(getattr(exc, "errno", None) or 0, type(exc).__name__)
    return _not_sent(ErrorKind.CONNECT, f"no connection to the upstream ({reason})")


def lost_fault(answered: bool) -> UpstreamError:
    """The connection ended before the answer was complete. `answered`: at least one byte of the answer had come."""
    if answered:
        return UpstreamError(
            ErrorKind.STREAM_CUT, "the upstream closed the connection in the middle of its answer", delivery=Delivery.ANSWERED
        )
    return UpstreamError(
        ErrorKind.CONNECT, "the upstream closed the connection without an answer", delivery=Delivery.MAYBE_PROCESSED
    )


def stale_fault() -> UpstreamError:
    """A kept-alive connection was closed before the request reached the upstream: repeating it repeats nothing."""
    return _not_sent(ErrorKind.CONNECT, "the upstream closed an idle connection")


def protocol_fault(message: str) -> UpstreamError:
    """The answer is not HTTP, or breaks a limit."""
    return UpstreamError(ErrorKind.PROTOCOL, message, delivery=Delivery.ANSWERED)


def timeout_fault(phase: str, length_s: float, delivery: Delivery) -> UpstreamError:
    """The phase (`connect`, `first_byte`, `first_token`, `idle`, `total`, `deadline`) took longer than allowed."""
    return UpstreamError(
        ErrorKind.TIMEOUT, f"the upstream took longer than {phase} allows ({length_s:g} s)", delivery=delivery
    )


def busy_fault(most: int, waited_s: float) -> UpstreamError:
    """All connections that may be opened were busy for so long: our own bound, so nothing is held against the upstream."""
    message = f"all {most} connections to the upstream were busy for {waited_s:g} s"
    return _not_sent(ErrorKind.RATE_LIMITED, message)


def _not_sent(kind: ErrorKind, message: str) -> UpstreamError:
    return UpstreamError(kind, message, delivery=Delivery.NOT_SENT)
