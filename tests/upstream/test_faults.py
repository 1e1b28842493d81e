"""What a client is told of a connection that could not be opened: the reason, and no name or address."""

from __future__ import annotations

import ssl

import pytest

from routerd.errors import Delivery, ErrorKind
from routerd.upstream.faults import dial_fault


@pytest.mark.parametrize(
    ("verify", "reason"),
    [
        ("Hostname mismatch, certificate is not valid for 'gpu.internal'.", "(Hostname mismatch)"),
        ("IP address mismatch, certificate is not valid for '10.0.0.7'.", "(IP address mismatch)"),
        ("certificate has expired", "(certificate has expired)"),
    ],
)
def test_a_certificate_that_is_not_accepted_names_no_host(verify: str, reason: str) -> None:
    exc = ssl.SSLCertVerificationError(1, "failed")
    exc.verify_message = verify
    fault = dial_fault(exc)
    assert fault.message.endswith(reason)
    assert (fault.kind, fault.delivery) == (ErrorKind.TLS, Delivery.NOT_SENT)
