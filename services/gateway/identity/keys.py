"""The form of opaque secrets: ``<kind>_<id12>_<secret30>_<crc6>`` in base62. Knows no store.

The checksum (as GitHub's tokens have one) refuses typing errors and scanners' false finds before any I/O; the id inside
makes a lookup by index possible; only a SHA-256 of the whole is kept, which is enough for 178 random bits.
"""

import hashlib
import hmac
import secrets
import string
import uuid
import zlib

import uuid_utils

from services.gateway.identity.model import BadCredential

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LETTERS = frozenset(_ALPHABET)
_ID_LENGTH, _SECRET_LENGTH, _CHECK_LENGTH = 12, 30, 6


def new_uuid() -> str:
    """A UUID of version 7: unique, and in order of time."""
    return str(uuid_utils.uuid7())


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def make(kind: str) -> tuple[str, bytes, str]:
    """A new secret: its public id, what to keep of it, and the text to show once."""
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"{kind}_{key_id}_{secret}"
    plaintext = f"{body}_{_checksum(body)}"
    return key_id, _digest(plaintext), plaintext


def parse(kind: str, plaintext: str) -> tuple[str, bytes]:
    """The public id and the digest of a well-formed secret. Raises BadCredential without asking anybody."""
    parts = plaintext.split("_")
    lengths = [len(part) for part in parts[1:]]
    if parts[0] != kind or lengths != [_ID_LENGTH, _SECRET_LENGTH, _CHECK_LENGTH]:
        raise BadCredential(private=f"malformed {kind}")
    if not _LETTERS.issuperset("".join(parts[1:])) or _checksum("_".join(parts[:3])) != parts[3]:
        raise BadCredential(private=f"{kind} with a wrong checksum")
    return parts[1], _digest(plaintext)


def is_id(text: str) -> bool:
    """Whether the text can be a secret's public id."""
    return len(text) == _ID_LENGTH and _LETTERS.issuperset(text)


def equal(one: bytes, other: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(one, other)


def _digest(plaintext: str) -> bytes:
    return hashlib.sha256(plaintext.encode("ascii")).digest()


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode("ascii"))
    digits = ""
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
