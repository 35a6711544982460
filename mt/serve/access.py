"""Who may use a server: API keys, and the web pages that may send requests from a browser."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from mt.data.text import read_lines
from mt.errors import DataError

ANY_ORIGIN = "*"
MAX_KEY_LENGTH = 1000  # characters


@dataclass(frozen=True)
class Access:
    """The keys and origins that a server accepts."""

    api_keys: tuple[str, ...] = ()  # none: no key is needed
    allowed_origins: tuple[str, ...] = ()

    @property
    def needs_key(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys)

    def accepts_key(self, key: object) -> bool:
        """Return whether a request with this key is accepted.

        The time does not depend on how many characters are right.
        """
        if not self.needs_key:
            return True
        if not isinstance(key, str):
            return False
        given = key.encode(errors="replace")
        matches = [hmac.compare_digest(given, own.encode()) for own in self.api_keys]
        return any(matches)

    def accepts_origin(self, request: Request) -> bool:
        """Return whether a request is from a web page of an origin that may use the server.

        A browser names the origin of the page. Without this check, a page of any web site could use
        a server that only the machine of its reader can reach.
        """
        origin = request.headers.get("origin")
        if origin is None or ANY_ORIGIN in self.allowed_origins or origin in self.allowed_origins:
            return True
        _, _, host = origin.partition("://")
        return host == request.headers.get("host")


def bearer_key(request: Request) -> str | None:
    """Return the key in the header `Authorization: Bearer KEY`."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def read_api_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in a file, one per line. Raises DataError."""
    keys = tuple(line.strip() for line in read_lines(path) if line.strip())
    if not keys:
        raise DataError(f"{path}: wanted an API key, found none")
    check_keys(keys, where=str(path))
    return keys


def check_keys(keys: Sequence[str], *, where: str) -> None:
    """Raise DataError for keys that no header can hold."""
    for number, key in enumerate(keys, start=1):
        if not key.isascii() or not key.isprintable() or len(key) > MAX_KEY_LENGTH:
            raise DataError(
                f"{where}, key {number}: wanted at most {MAX_KEY_LENGTH} printable ASCII characters"
            )
