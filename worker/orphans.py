"""What a session holds by the service's account and nobody here knows: its claim's answer, or its stream, was lost.

Pure: it knows no service; beats are counted, not timed.
"""

from collections.abc import Collection

from worker.attempts import Key

# What is given back may still arrive, late: so many are remembered.
_MOST_REMEMBERED = 1000


class Orphans:
    """Attempts that are missing. One look is no proof: what was claimed may be on its way.

    Attributes:
        looks: how often it was looked.
    """

    def __init__(self) -> None:
        self.looks = 0
        self._since: dict[Key, int] = {}
        self._given_back: dict[Key, None] = {}

    def __contains__(self, key: Key) -> bool:
        """It was given back, and is not to be begun any more."""
        return key in self._given_back

    def look(self, unknown: Collection[Key], claims: Collection[int]) -> set[Key]:
        """Those to give back: unknown at two looks, while every claim still on its way was sent after the first.

        Args:
            unknown: what is held and known to nobody here.
            claims: of each claim on its way, how often had been looked when it was sent.
        """
        self.looks += 1
        since = {key: self._since.get(key, self.looks) for key in unknown}
        oldest = min(claims, default=self.looks)
        lasting = {key for key, look in since.items() if look < self.looks and oldest >= look}
        self._since = {key: look for key, look in since.items() if key not in lasting}
        self._given_back |= dict.fromkeys(lasting)
        while len(self._given_back) > _MOST_REMEMBERED:
            del self._given_back[next(iter(self._given_back))]
        return lasting
