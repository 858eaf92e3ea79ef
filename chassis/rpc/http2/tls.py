"""A server's certificate, read again once its files have changed."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from chassis.logging import get_logger

log = get_logger(__name__)


class Certificates:
    """The files that a server's TLS stands on.

    Args:
        authority: who must have signed the certificates of clients; empty: they need none.
    """

    def __init__(self, certificate: str, key: str, authority: str = "") -> None:
        self._certificate = certificate
        self._key = key
        self._authority = authority
        self._seen = self._states()
        self._newest = self._load()

    def context(self) -> ssl.SSLContext:
        """What to listen with. Every handshake looks whether the files have changed."""
        first = self._newest
        first.sni_callback = self._choose
        return first

    def _choose(self, socket: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        try:
            states = self._states()
            if states != self._seen:
                self._newest = self._load()
                self._seen = states
        except OSError as error:
            # ssl.SSLError is one. Files that are being replaced are looked at again by the next handshake.
            log.warning("The certificate could not be read again", error=str(error))
        socket.context = self._newest

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(self._certificate, self._key)
        if self._authority:
            context.load_verify_locations(self._authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _states(self) -> Sequence[tuple[int, int]]:
        found = [Path(path).stat() for path in (self._certificate, self._key, self._authority) if path]
        return [(one.st_mtime_ns, one.st_ino) for one in found]
