"""TLS towards upstreams: one context for all, made for the first generation that needs one; certificates are always verified."""

from __future__ import annotations

import ssl

__all__ = ["client_context"]


def client_context() -> ssl.SSLContext:
    """Build a verifying client context (system trust store, SSL_CERT_FILE and SSL_CERT_DIR honoured), HTTP/1.1 by ALPN."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
