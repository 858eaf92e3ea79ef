"""``/api/v1/models``: which models can be asked for."""

from fastapi import APIRouter, Request
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from pydantic import BaseModel

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.edge.context import require_scope
from services.gateway.views import Instant


class ModelView(BaseModel):
    """A model. `size` is for people, ``0B`` where its provider does not tell; `status` is loaded, available or
    unavailable.
    """

    name: str
    size: str
    status: str
    last_used: Instant | None
    provider: str


class ModelList(BaseModel):
    """All of them. `default_model` answers when none is asked for."""

    models: list[ModelView]
    default_model: str


class ModelInfo(ModelView):
    """With its exact size, 0 where its provider does not tell."""

    size_bytes: int
    created_at: Instant | None


class Models:
    """The routes."""

    def __init__(self, llm: "llm_pb2_grpc.LlmServiceAsyncStub") -> None:
        self._llm = llm

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/models", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.list_models, operation_id="v1_list_models", summary="List models")
        # Names of models may hold slashes, as in "org/model".
        add("/{model:path}/info", self.info, operation_id="v1_get_model_info", summary="Look at a model")
        return router

    async def list_models(self, request: Request) -> ModelList:
        require_scope(request.scope, "models")
        answer = await self._llm.ListModels(llm_pb2.ListModelsRequest())
        return ModelList(
            models=[ModelView(**_shown(model)) for model in answer.models], default_model=answer.default_model
        )

    async def info(self, request: Request, model: str) -> ModelInfo:
        require_scope(request.scope, "models")
        answer = await self._llm.ListModels(llm_pb2.ListModelsRequest())
        for known in answer.models:
            if known.name == model:
                return ModelInfo(
                    **_shown(known), size_bytes=known.size_bytes, created_at=views.instant(known, "created_at")
                )
        raise NotFound("Requested model not available", code="MODEL_NOT_FOUND", details={"field": "model"})


def _shown(model: llm_pb2.Model) -> dict[str, str | None]:
    return {
        "name": model.name,
        "size": views.size_text(model.size_bytes),
        "status": model.status,
        "last_used": views.instant(model, "last_used_at"),
        "provider": model.provider,
    }
