"""The gRPC face: decode, ask, encode."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from services.llm import wire
from services.llm.operations import Catalogue, Chats


class LlmServicer(llm_pb2_grpc.LlmServiceServicer):
    """``mesh.llm.v1.LlmService``."""

    def __init__(self, chats: Chats, catalogue: Catalogue) -> None:
        self._chats = chats
        self._catalogue = catalogue

    async def Chat(self, request: llm_pb2.ChatRequest, context: Any) -> llm_pb2.ChatResponse:  # noqa: N802 - the contract's name, as all below
        del context
        return wire.write_answer(await self._chats.chat(wire.read_chat(request)))

    async def ChatStream(  # noqa: N802
        self, request: llm_pb2.ChatRequest, context: Any
    ) -> AsyncGenerator[llm_pb2.ChatStreamResponse, None]:
        del context
        async with aclosing(self._chats.stream(wire.read_chat(request))) as pieces:
            async for piece in pieces:
                yield wire.write_piece(piece)

    async def ListModels(  # noqa: N802
        self, request: llm_pb2.ListModelsRequest, context: Any
    ) -> llm_pb2.ListModelsResponse:
        del request, context
        models = [wire.write_model(model) for model in self._catalogue.models]
        return llm_pb2.ListModelsResponse(models=models, default_model=self._catalogue.default_model)

    async def GetUsage(self, request: llm_pb2.GetUsageRequest, context: Any) -> llm_pb2.GetUsageResponse:  # noqa: N802
        del context
        totals = await self._chats.usage(request.user_id, wire.read_since(request))
        return llm_pb2.GetUsageResponse(models=[wire.write_total(total) for total in totals])

    async def ListProviders(  # noqa: N802
        self, request: llm_pb2.ListProvidersRequest, context: Any
    ) -> llm_pb2.ListProvidersResponse:
        del request, context
        return llm_pb2.ListProvidersResponse(providers=[wire.write_provider(p) for p in self._catalogue.providers])
