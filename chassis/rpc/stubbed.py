"""What generated stubs need of a channel, and nothing else of grpc's channel."""

from abc import abstractmethod
from typing import Any, NoReturn, Self

import grpc

from chassis.rpc.methods import Deserializer, Serializer

Codecs = tuple[Serializer, Deserializer]


class Stubbed(grpc.aio.Channel):
    """A channel for generated stubs: they call ``unary_unary``, ``unary_stream`` and ``stream_stream`` and no more.

    Opening, closing and connectivity belong to whoever made it, so asking for them is a mistake and raises TypeError.
    """

    @abstractmethod
    def make_unary(self, method: str, codecs: Codecs) -> Any:
        """What a stub's unary method is: a callable that returns an awaitable."""

    @abstractmethod
    def make_stream(self, method: str, codecs: Codecs) -> Any:
        """What a stub's server-streaming method is: a callable that returns an async iterator."""

    def make_conversation(self, method: str, codecs: Codecs) -> Any:
        """What a stub's method with streams both ways is: a callable that takes and returns an async iterator."""
        del codecs
        raise TypeError(f"{method}: this channel has no streams of requests")

    def unary_unary(  # type: ignore[override]  # stubs always give both codecs
        self, method: str, request_serializer: Serializer, response_deserializer: Deserializer, **_: Any
    ) -> Any:
        return self.make_unary(method, (request_serializer, response_deserializer))

    def unary_stream(  # type: ignore[override]  # as above
        self, method: str, request_serializer: Serializer, response_deserializer: Deserializer, **_: Any
    ) -> Any:
        return self.make_stream(method, (request_serializer, response_deserializer))

    def stream_stream(  # type: ignore[override]  # as above
        self, method: str, request_serializer: Serializer, response_deserializer: Deserializer, **_: Any
    ) -> Any:
        return self.make_conversation(method, (request_serializer, response_deserializer))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing: whoever opened it closes it."""

    async def close(self, grace: float | None = None) -> None:
        """Nothing: whoever opened it closes it."""

    def get_state(self, try_to_connect: bool = False) -> NoReturn:  # noqa: FBT001, FBT002 - grpc's signature
        del try_to_connect
        raise TypeError("the pool behind this channel knows the states of its connections")

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> NoReturn:
        del last_observed_state
        raise TypeError("the pool behind this channel knows the states of its connections")

    async def channel_ready(self) -> NoReturn:
        raise TypeError("the pool behind this channel knows the states of its connections")

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{method}: client streams are not spoken between services; use a lane")
