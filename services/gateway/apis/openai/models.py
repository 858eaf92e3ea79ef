"""``GET /v1/models`` and ``GET /v1/models/{id}``."""

from fastapi import APIRouter, Request
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc

from chassis.errors import NotFound
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.openai.shapes import OpenAIModel, OpenAIModelList
from services.gateway.edge.context import require_scope


class Models:
    """The routes."""

    def __init__(self, llm: "llm_pb2_grpc.LlmServiceAsyncStub") -> None:
        self._llm = llm

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=StrictRoute)
        router.add_api_route("", self.list_models, operation_id="openai_list_models", summary="List models")
        # Names of models may hold slashes, as in "org/model".
        router.add_api_route(
            "/{model:path}", self.get_model, operation_id="openai_get_model", summary="Retrieve a model"
        )
        return router

    async def list_models(self, request: Request) -> OpenAIModelList:
        require_scope(request.scope, "models")
        answer = await self._llm.ListModels(llm_pb2.ListModelsRequest())
        return {"object": "list", "data": [_shown(model) for model in answer.models]}

    async def get_model(self, request: Request, model: str) -> OpenAIModel:
        require_scope(request.scope, "models")
        answer = await self._llm.ListModels(llm_pb2.ListModelsRequest())
        for known in answer.models:
            if known.name == model:
                return _shown(known)
        raise NotFound("The model does not exist", code="MODEL_NOT_FOUND", details={"field": "model"})


def _shown(model: llm_pb2.Model) -> OpenAIModel:
    return {"id": model.name, "object": "model", "created": model.created_at.seconds, "owned_by": model.provider}
