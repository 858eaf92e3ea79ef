"""``/api/v1/models``: which models can be asked for, and fetching more of them."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Request
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from mesh.tasks.v1 import tasks_pb2
from pydantic import BaseModel, Field, StringConstraints

from chassis.errors import NotFound
from services.gateway import views
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, IDEMPOTENCY_PARAMETER, idempotency_key
from services.gateway.apis.shapes import Body
from services.gateway.apis.special_kinds import PULL
from services.gateway.apis.submissions import Submissions
from services.gateway.apis.v1 import task_shapes
from services.gateway.apis.v1.task_shapes import Accepted
from services.gateway.edge.context import require_admin, require_scope
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


class Pull(Body):
    """The model to fetch."""

    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$")] = Field(
        examples=["llama2"]
    )


class Models:
    """The routes."""

    def __init__(self, llm: "llm_pb2_grpc.LlmServiceAsyncStub", submissions: Submissions) -> None:
        self._llm = llm
        self._submissions = submissions

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/api/v1/models", tags=["v1"], route_class=StrictRoute)
        add = router.add_api_route
        add("", self.list_models, operation_id="v1_list_models", summary="List models")
        add(
            "/pull",
            self.pull,
            methods=["POST"],
            status_code=202,
            operation_id="v1_pull_model",
            summary="Fetch a model with Ollama, as a task",
            openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
        )
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

    async def pull(self, request: Request, body: Pull) -> Accepted:
        require_scope(request.scope, "models")
        principal = require_admin(request.scope)
        key = idempotency_key(request.headers.get(IDEMPOTENCY_KEY.decode(), ""))
        submission = tasks_pb2.SubmitRequest(
            owner_id=principal.user_id,
            kind=PULL,
            payload=orjson.dumps({"model": body.model}),
            priority=tasks_pb2.PRIORITY_NORMAL,
            idempotency_key=key,
            # Who asks again while it is being fetched is told of that task.
            unique_key=body.model,
        )
        return task_shapes.accepted(await self._submissions.submit(request.scope, submission))


def _shown(model: llm_pb2.Model) -> dict[str, str | None]:
    return {
        "name": model.name,
        "size": views.size_text(model.size_bytes),
        "status": model.status,
        "last_used": views.instant(model, "last_used_at"),
        "provider": model.provider,
    }
