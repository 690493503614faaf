"""CRLs from files, CRLs and OCSP responses by HTTP (RFC 5280 §4.2.1.13, RFC 6960 §A.1).

All of it is bounded in time, size and redirects.

URLs come from the operator, or from certificates whose path to a trust anchor of the operator has been validated: a
stranger cannot make the server fetch anything. Addresses are not restricted, for a company's PKI answers on private
ones; what comes back is never shown to a client.
"""

import os
from pathlib import Path
from typing import Final

import aiohttp

from cmpd.revocation.answer import Unusable

MAX_REDIRECTS: Final = 3
CONNECTIONS: Final = 16
"""At a time, to all servers together."""
_CHUNK: Final = 64 * 1024
_HEADERS: Final = {"User-Agent": "cmpd", "Accept-Encoding": "identity"}

Stamp = tuple[int, int, int] | None
"""What tells that a file has changed: inode, time of modification, size; None when it is not there."""


class Unreachable(Unusable):
    """The server could not be reached or did not answer: what else it has need not be asked for now."""


class Fetching:
    """One connection pool, opened when it is first needed. `seconds` for each download, `size` octets at most."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str) -> bytes:
        """The octets behind an http or https URL. Raises Unusable."""
        return await self._ask("GET", url, self._size)

    async def post(self, url: str, data: bytes, size: int) -> bytes:
        """The answer to an OCSPRequest. Raises Unusable."""
        return await self._ask("POST", url, size, data)

    async def _ask(self, method: str, url: str, size: int, data: bytes | None = None) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,  # nothing small is to become large
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=self._seconds),
            )
        headers = {"Content-Type": "application/ocsp-request"} if data is not None else {}
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, max_redirects=MAX_REDIRECTS, allow_redirects=data is None
            ) as response:
                if response.status >= 500:
                    raise Unreachable(f"HTTP {response.status}")
                if response.status != 200:
                    raise Unusable(f"HTTP {response.status}")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise Unusable("it answers with a Content-Encoding that was not asked for")
                received = bytearray()
                async for chunk in response.content.iter_chunked(_CHUNK):
                    received += chunk
                    if len(received) > size:
                        raise Unusable(f"longer than {size} octets")
                return bytes(received)
        except TimeoutError as exc:
            raise Unreachable(f"it did not answer within {self._seconds:g} seconds") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if isinstance(exc, Unusable):
                raise
            raise Unreachable(f"it cannot be reached: {str(exc) or type(exc).__name__}") from exc

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def stamp(path: str) -> Stamp:
    """Tell one state of a file from another."""
    try:
        found = os.stat(path)  # noqa: PTH116  PERF: on the way of a request, at most once a second
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_file(path: str, size: int) -> bytes:
    """The content of a file. Raises Unusable."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(size + 1)
    except OSError as exc:
        raise Unusable(f"it cannot be read: {exc.strerror}") from exc
    if len(data) > size:
        raise Unusable(f"longer than {size} octets")
    return data
