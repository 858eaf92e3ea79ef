"""Plain classes that answer as the services behind the gateway do, from memory."""
# ruff: noqa: N802 - the contracts name their methods so

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from mesh.agents.v1 import agents_pb2
from mesh.llm.v1 import llm_pb2

from chassis.errors import Conflict, Invalid, MeshError, NotFound
from services.gateway.identity.model import (
    ApiKey,
    BadCredential,
    KeyNotFound,
    NewApiKey,
    Principal,
    Tokens,
    User,
    UsernameTaken,
    UserNotFound,
    check_password,
    check_username,
)
from services.gateway.views import stamp_of
from tests.support.clock import FakeClock


def uuid(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


class FakeLlm:
    """Model ``echo`` says "Hello there" in two pieces. `failure` is raised instead, in a stream after `fail_after`."""

    def __init__(self) -> None:
        self.requests: list[llm_pb2.ChatRequest] = []
        self.failure: MeshError | None = None
        self.fail_after = 0
        self.hang = False
        self.stopped = asyncio.Event()

    async def Chat(self, request: Any, **_: Any) -> Any:
        await self._begin(request)
        choices = [
            llm_pb2.Choice(
                index=index, message=llm_pb2.Message(role="assistant", content="Hello there"), finish_reason="stop"
            )
            for index in range(request.choices or 1)
        ]
        usage = llm_pb2.Usage(input_tokens=3, output_tokens=2)
        return llm_pb2.ChatResponse(id="chatcmpl-1", model="echo", provider="echo", choices=choices, usage=usage)

    async def ChatStream(self, request: Any, **_: Any) -> AsyncIterator[Any]:
        failure, self.failure = self.failure, None if self.fail_after else self.failure
        await self._begin(request)
        yield llm_pb2.ChatStreamResponse(id="chatcmpl-1", model="echo", provider="echo")
        for index, piece in enumerate(("Hello", " there")):
            if failure is not None and index == self.fail_after:
                raise failure
            yield llm_pb2.ChatStreamResponse(deltas=[llm_pb2.Delta(content=piece)])
        usage = llm_pb2.Usage(input_tokens=3, output_tokens=2)
        yield llm_pb2.ChatStreamResponse(deltas=[llm_pb2.Delta(finish_reason="stop")], usage=usage)

    async def ListModels(self, request: Any, **_: Any) -> Any:
        models = [
            llm_pb2.Model(name="echo", provider="echo", status="loaded"),
            llm_pb2.Model(name="org/tinyllama", provider="ollama", size_bytes=637_000_000, status="available"),
        ]
        return llm_pb2.ListModelsResponse(models=models, default_model="echo")

    async def _begin(self, request: llm_pb2.ChatRequest) -> None:
        self.requests.append(request)
        if request.model not in {"", "echo"}:
            raise Invalid("Requested model not available", code="MODEL_NOT_FOUND", details={"field": "model"})
        if self.failure is not None:
            raise self.failure
        if self.hang:
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()


class FakeAgents:
    """Agents whose executions succeed at once."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.agents: dict[str, agents_pb2.Agent] = {}
        self.executions: dict[str, agents_pb2.Execution] = {}
        for agent_id, name, port in (("task-coordinator", "Task Assignment Coordinator", 8551),):
            self.agents[agent_id] = agents_pb2.Agent(
                id=agent_id,
                name=name,
                status="active",
                capabilities=["task_distribution", "priority_queue"],
                created_at=stamp_of(clock.now()),
                served=True,
                port=port,
                runs=127,
                successful_runs=120,
            )

    async def CreateAgent(self, request: Any, **_: Any) -> Any:
        if any(agent.name == request.name for agent in self.agents.values()):
            raise Conflict("An agent of that name exists", code="AGENT_EXISTS")
        agent = agents_pb2.Agent(
            id=uuid(len(self.agents)),
            name=request.name,
            role=request.role,
            description=request.description,
            status="inactive",
            capabilities=request.capabilities,
            model=request.model,
            created_at=stamp_of(self._clock.now()),
        )
        self.agents[agent.id] = agent
        return agents_pb2.CreateAgentResponse(agent=agent)

    async def GetAgent(self, request: Any, **_: Any) -> Any:
        return agents_pb2.GetAgentResponse(agent=self._agent(request.id))

    async def UpdateAgent(self, request: Any, **_: Any) -> Any:
        agent = self._agent(request.id)
        for name in ("name", "role", "description", "status", "model"):
            if request.HasField(name):
                setattr(agent, name, getattr(request, name))
        if request.HasField("capabilities"):
            agent.capabilities[:] = request.capabilities.capabilities
        return agents_pb2.UpdateAgentResponse(agent=agent)

    async def DeleteAgent(self, request: Any, **_: Any) -> Any:
        del self.agents[self._agent(request.id).id]
        return agents_pb2.DeleteAgentResponse()

    async def ListAgents(self, request: Any, **_: Any) -> Any:
        found = [agent for agent in self.agents.values() if request.status in {"", agent.status}]
        return agents_pb2.ListAgentsResponse(agents=found[request.skip :][: request.limit], total=len(found))

    async def Execute(self, request: Any, **_: Any) -> Any:
        ids = request.agent_ids or [agent.id for agent in self.agents.values() if agent.status == "active"]
        if any(agent_id not in self.agents for agent_id in ids):
            raise Invalid("Unknown agent", code="AGENT_NOT_FOUND", details={"field": "agent_ids"})
        execution_id = uuid(1000 + len(self.executions))
        began = self._clock.now()
        runs = [
            agents_pb2.Run(
                id=f"run-{index}",
                execution_id=execution_id,
                agent_id=agent_id,
                agent_name=self.agents[agent_id].name,
                status="success",
                started_at=stamp_of(began),
                finished_at=stamp_of(began + timedelta(seconds=150)),
                duration_ms=150_000,
                output="done",
            )
            for index, agent_id in enumerate(ids)
        ]
        execution = agents_pb2.Execution(
            id=execution_id,
            owner_id=request.owner_id,
            status="started",
            parallel=request.parallel,
            timeout_seconds=request.timeout_seconds,
            started_at=stamp_of(began),
            runs=runs,
            estimated_seconds=60,
        )
        self.executions[execution_id] = execution
        return agents_pb2.ExecuteResponse(execution=execution)

    async def GetExecution(self, request: Any, **_: Any) -> Any:
        return agents_pb2.GetExecutionResponse(execution=self._execution(request))

    async def CancelExecution(self, request: Any, **_: Any) -> Any:
        execution = self._execution(request)
        if execution.status != "started":
            raise Conflict("The execution has ended", code="EXECUTION_ENDED")
        execution.status = "cancelled"
        return agents_pb2.CancelExecutionResponse(execution=execution)

    async def ListRuns(self, request: Any, **_: Any) -> Any:
        runs = [
            run
            for execution in self.executions.values()
            if request.owner_id in {"", execution.owner_id}
            for run in execution.runs
            if request.agent_id in {"", run.agent_id} and request.status in {"", run.status}
        ]
        return agents_pb2.ListRunsResponse(runs=runs[request.skip :][: request.limit], total=len(runs))

    def _agent(self, agent_id: str) -> agents_pb2.Agent:
        if agent_id not in self.agents:
            raise NotFound("Agent not found", code="AGENT_NOT_FOUND")
        return self.agents[agent_id]

    def _execution(self, request: Any) -> agents_pb2.Execution:
        execution = self.executions.get(request.id)
        if execution is None or request.owner_id not in {"", execution.owner_id}:
            raise NotFound("Execution not found", code="EXECUTION_NOT_FOUND")
        return execution


class FakeIdentity:
    """Accounts with plain passwords, and tokens that are the keys of `who`."""

    def __init__(self, clock: FakeClock, who: Mapping[str, Principal]) -> None:
        self._clock = clock
        self.who = dict(who)
        self.users: dict[str, tuple[User, str]] = {}
        self.keys: dict[str, ApiKey] = {}
        for principal in who.values():
            self._add(principal.user_id, principal.username, f"{principal.username}@example.com", "secure_password123")

    def _add(self, user_id: str, username: str, email: str, password: str) -> User:
        role = "admin" if username == "admin" else "user"
        user = User(id=user_id, username=username, email=email, role=role, is_active=True, created_at=self._clock.now())
        self.users[username] = user, password
        return user

    async def register(self, *, username: str, email: str, password: str) -> User:
        check_username(username)
        check_password(password)
        if username in self.users:
            raise UsernameTaken
        return self._add(uuid(len(self.users)), username, email, password)

    async def login(self, *, username: str, password: str) -> Tokens:
        user, known = self.users.get(username, (None, ""))
        if user is None or password != known:
            raise BadCredential("Incorrect username or password")
        self.users[username] = replace(user, last_login=self._clock.now()), known
        return _TOKENS

    async def refresh(self, refresh_token: str) -> Tokens:
        if refresh_token != _TOKENS.refresh_token:
            raise BadCredential
        return _TOKENS

    async def logout(self, principal: Principal) -> None:
        self.who = {token: who for token, who in self.who.items() if who != principal}

    async def change_password(self, user_id: str, *, current: str, new: str) -> None:
        check_password(new)
        user = await self.me(user_id)
        if self.users[user.username][1] != current:
            raise BadCredential("Incorrect password")
        self.users[user.username] = user, new

    async def me(self, user_id: str) -> User:
        for user, _ in self.users.values():
            if user.id == user_id:
                return user
        raise UserNotFound

    async def list_users(self, offset: int, limit: int) -> tuple[list[User], int]:
        found = [user for user, _ in self.users.values()]
        return found[offset : offset + limit], len(found)

    async def give_role(self, principal: Principal, user_id: str, role: str) -> User:
        if user_id == principal.user_id:
            raise Conflict("Another administrator has to change your role", code="OWN_ROLE")
        user = replace(await self.me(user_id), role=role)
        self.users[user.username] = user, self.users[user.username][1]
        return user

    async def create_key(
        self, principal: Principal, *, name: str, scopes: tuple[str, ...], expires_at: Any
    ) -> NewApiKey:
        key_id = f"key{len(self.keys)}"
        key = ApiKey(
            id=key_id,
            user_id=principal.user_id,
            name=name,
            prefix=f"amk_{key_id}",
            scopes=scopes,
            created_at=self._clock.now(),
            expires_at=expires_at,
        )
        self.keys[key_id] = key
        return NewApiKey(key=key, plaintext=f"amk_{key_id}_secret_crc")

    async def list_keys(self, user_id: str) -> list[ApiKey]:
        return [key for key in self.keys.values() if key.user_id == user_id]

    async def revoke_key(self, principal: Principal, key_id: str) -> None:
        key = self.keys.get(key_id)
        if key is None or key.user_id != principal.user_id:
            raise KeyNotFound
        self.keys[key_id] = replace(key, revoked_at=self._clock.now())

    def recall(self, credential: str) -> Principal | None:
        return self.who.get(credential)

    async def authenticate(self, credential: str) -> Principal:
        if credential not in self.who:
            raise BadCredential
        return self.who[credential]


_TOKENS = Tokens(
    access_token="eyJ.access", refresh_token="amr_1_x_y", expires_in_seconds=1800, refresh_expires_in_seconds=86400
)
