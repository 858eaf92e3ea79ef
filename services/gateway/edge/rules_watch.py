"""Which rules are in force, as the ratelimit service tells it. Knows their generation and whether tokens are counted,
not the rules.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc

from chassis.errors import MeshError
from chassis.logging import get_logger
from chassis.retry import backoff_seconds

log = get_logger(__name__)

TOKENS = "openai.tokens"
_CALL_SECONDS = 1.0
_RETRY_FIRST_SECONDS = 0.1
_RETRY_MOST_SECONDS = 2.0


class RulesWatch:
    """Follows the rules.

    Args:
        follow: told the generation whenever it changes, and None when nobody tells it any more.

    Attributes:
        counts_tokens: the rules have a class for tokens. Without it a request for tokens would fall under the rules of
            some other class, which count requests.
    """

    def __init__(
        self, service: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub", follow: Callable[[int | None], None]
    ) -> None:
        self._service = service
        self._follow = follow
        self.counts_tokens = False

    async def run(self) -> None:
        """For ever."""
        attempt = 0
        while True:
            try:
                async with aclosing(self._stream()) as stream:
                    async for news in stream:
                        attempt = 0
                        self._follow(news.generation)
                        await self._learn()
            except MeshError as error:
                log.debug("Nobody tells which rules are in force", error=str(error))
            finally:
                self._follow(None)
            await asyncio.sleep(backoff_seconds(attempt, first=_RETRY_FIRST_SECONDS, most=_RETRY_MOST_SECONDS))
            attempt += 1

    def _stream(self) -> AsyncGenerator[ratelimit_pb2.WatchRulesResponse]:
        # The chassis's channels return generators where the generated stub promises grpc's own call object.
        call = self._service.WatchRules(ratelimit_pb2.WatchRulesRequest())
        return cast("AsyncGenerator[ratelimit_pb2.WatchRulesResponse]", call)

    async def _learn(self) -> None:
        everybody = ratelimit_pb2.Subject(user="-", role="user", api_key="-", ip="-", model="-")
        usage = await self._service.GetUsage(ratelimit_pb2.GetUsageRequest(subject=everybody), timeout=_CALL_SECONDS)
        self.counts_tokens = any(one.route_class == TOKENS for one in usage.classes)
