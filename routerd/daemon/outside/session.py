"""Control's own calls to the outside: few, small, and not in a hurry, so a common HTTP client makes them.

No redirect is followed (the credential would go along), no cookie is kept, no proxy is taken from the environment, and no more is
read than the caller allows. The client is made at the first call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Outside", "OutsideFault", "Reply"]


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class OutsideFault(Exception):
    """No whole answer came. The message names no host and no credential."""


class Outside:
    """The HTTP client of control."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None, *, timeout_s: float, most_bytes: int
    ) -> Reply:
        """Return the answer, whatever its status. Raises OutsideFault."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(method, url, headers=headers, data=body, allow_redirects=False) as answer,
            ):
                pieces = bytearray()
                async for piece in answer.content.iter_any():
                    pieces += piece
                    if len(pieces) > most_bytes:
                        raise OutsideFault(f"the answer is larger than {most_bytes} bytes")
                return Reply(answer.status, bytes(pieces))
        except TimeoutError as exc:
            raise OutsideFault(f"no answer within {timeout_s:g} s") from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise OutsideFault("the certificate was not accepted") from exc
        except aiohttp.ClientConnectorError as exc:
            raise OutsideFault(f"no connection ({exc.os_error.strerror or type(exc.os_error).__name__})") from exc
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as exc:
            raise OutsideFault(f"the exchange failed ({type(exc).__name__})") from exc

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None
