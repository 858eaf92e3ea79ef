"""What the dialects translate to, in one value."""

from dataclasses import dataclass

from chassis.clock import Clock
from services.gateway.apis.submissions import Submissions
from services.gateway.identity.operations import Identity
from services.gateway.live.feed import Feeds
from services.gateway.peers import Peers
from services.gateway.workers.links import Links


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What stands behind the dialects. `chat_timeout_seconds` bounds a whole answer of a model, streamed or not."""

    peers: Peers
    identity: Identity
    feeds: Feeds
    links: Links
    submissions: Submissions
    clock: Clock
    chat_timeout_seconds: float
    version: str
