"""The methods a process serves, each wrapped once: context in, errors to status, time measured.

The same table stands behind the gRPC server and behind lanes, so a method means the same on both.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from chassis import telemetry
from chassis.errors import DeadlineExceeded, Internal, Invalid, MeshError
from chassis.logging import get_logger
from chassis.rpc import deadline
from chassis.rpc.http2.call import Call
from chassis.rpc.http2.server import Server
from chassis.rpc.http2.wire import StatusError
from chassis.rpc.status import DETAILS_KEY, code_of, to_status

log = get_logger(__name__)

# grpc's handlers are generic for type checkers alone.
Handler = Any

# Answers many requests of one lane frame at once, one answer or error each, in order.
BatchHandler = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Start:
    """How calls of a lane are answered that wait for nothing but one future: without a task for each.

    Attributes:
        begin: given a request and the traceparent of what it causes, the future of what comes of it; None: this one
            needs a task after all. Raises as a servicer does.
        finish: the answer to what came of it.
    """

    begin: Callable[[Any, str], asyncio.Future[Any] | None]
    finish: Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """One method. `behavior` is the servicer's; `batch` answers many lane calls at once where there is one, and `start`
    those that need no task.
    """

    path: str
    streaming: bool
    behavior: Callable[[Any, Any], Any]
    deserialize: Callable[[bytes], Any]
    serialize: Callable[[Any], bytes]
    batch: BatchHandler | None = None
    start: Start | None = None
    _timers: dict[str, Any] = field(default_factory=dict)

    async def answer(self, request: Any, context: Any, traceparent: str, timeout_seconds: float | None) -> Any:
        """Answers a unary call. Raises MeshError and nothing else (but cancellation)."""
        began = time.perf_counter()
        code = "OK"
        token = deadline.set_deadline(None if timeout_seconds is None else deadline.after(timeout_seconds))
        try:
            with telemetry.span(self.path[1:], telemetry.SERVER, traceparent):
                return await self.behavior(request, context)
        except Exception as error:
            failure = self.understand(error)
            code = failure.code
            raise failure from error
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            deadline.reset_deadline(token)
            self.observe(code, time.perf_counter() - began)

    def begin(
        self, body: bytes, traceparent: str, tell: Callable[[bytes | MeshError | None], None]
    ) -> asyncio.Future[Any] | None:
        """Begins a unary call that needs no task, and tells its answer later: None when its future was cancelled.

        Returns None where it needs one: nothing was begun. Raises MeshError and nothing else.
        """
        if self.start is None:
            return None
        start, began = self.start, time.perf_counter()
        span = telemetry.open_span(self.path[1:], telemetry.SERVER, traceparent)

        def fail(error: Exception) -> MeshError:
            failure = self.understand(error)
            span.fail(type(failure).__name__)
            span.end()
            self.observe(failure.code, time.perf_counter() - began)
            return failure

        def ended(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                span.end()
                self.observe("CANCELLED", time.perf_counter() - began)
                tell(None)
                return
            try:
                answer = self.serialize(start.finish(future.result()))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                tell(fail(error))
                return
            span.end()
            self.observe("OK", time.perf_counter() - began)
            tell(answer)

        try:
            future = start.begin(self.parse(body), span.traceparent)
        except Exception as error:
            raise fail(error) from error
        if future is not None:
            future.add_done_callback(ended)
        return future

    async def stream(
        self, request: Any, context: Any, traceparent: str, timeout_seconds: float | None
    ) -> AsyncIterator[Any]:
        """Answers a server-streaming call; `request` is an async iterator where the client streams too.

        Raises MeshError and nothing else (but cancellation).
        """
        began = time.perf_counter()
        code = "OK"
        # A generator runs in its consumer's context, so tokens cannot be reset here; the call has a context of its own.
        deadline.set_deadline(None if timeout_seconds is None else deadline.after(timeout_seconds))
        answers = self.behavior(request, context)
        try:
            with telemetry.span(self.path[1:], telemetry.SERVER, traceparent):
                async for answer in answers:
                    yield answer
        except StatusError as error:
            # A request of the client's stream that is none.
            code = error.code.name
            raise
        except Exception as error:
            failure = self.understand(error)
            code = failure.code
            raise failure from error
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        finally:
            await answers.aclose()
            self.observe(code, time.perf_counter() - began)

    async def answer_all(self, requests: Sequence[Any]) -> Sequence[Any]:
        """Answers many calls with the batch handler, each with its answer or its MeshError; raises neither."""
        if self.batch is None:
            raise TypeError(f"{self.path} has no batch handler")
        try:
            answers = await self.batch(requests)
        except Exception as error:  # noqa: BLE001 - every call must be answered
            return [self.understand(error)] * len(requests)
        return [self.understand(one) if isinstance(one, MeshError) else one for one in answers]

    async def answer_calls(self, calls: Sequence[Call]) -> list[bytes | StatusError]:
        """Answers unary calls that came together with the batch handler; raises nothing."""
        began, began_ns = time.perf_counter(), time.time_ns()
        requests = []
        refused: dict[int, MeshError | StatusError] = {}
        for at, call in enumerate(calls):
            try:
                requests.append(self.parse(call.only_message()))
            except (Invalid, StatusError) as error:
                refused[at] = error
        answers = iter(await self.answer_all(requests) if requests else ())
        seconds = time.perf_counter() - began
        told: list[bytes | StatusError] = []
        for at, call in enumerate(calls):
            answer = refused[at] if at in refused else next(answers)
            self.observe(answer.code if isinstance(answer, MeshError) else "OK", seconds)
            telemetry.record(self.path[1:], telemetry.SERVER, _traceparent(call), began_ns)
            if isinstance(answer, MeshError):
                answer = _status_error(answer)
            told.append(answer if isinstance(answer, StatusError) else self.serialize(answer))
        return told

    def parse(self, body: bytes) -> Any:
        """A request. Raises Invalid for what is none."""
        try:
            return self.deserialize(body)
        except Exception as error:
            raise Invalid("The request is not of the method's type", private=repr(error)) from error

    def understand(self, error: Exception) -> MeshError:
        """Whatever was raised, as an error of the mesh; what nobody expected is logged."""
        if isinstance(error, MeshError):
            if isinstance(error, Internal) or error.private:
                log.warning("A call failed", method=self.path, error=str(error))
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(private=f"{self.path}: {error}")
        log.error("A call failed unexpectedly", method=self.path, exc_info=error)
        return Internal(private=f"{self.path}: {error!r}")

    def observe(self, code: str, seconds: float) -> None:
        """Counts a call that ended."""
        timer = self._timers.get(code)
        if timer is None:
            timer = self._timers[code] = telemetry.RPC_SERVER_SECONDS.labels(self.path, code)
        timer.observe(seconds)


class MethodTable:
    """Collects what the generated ``add_…Servicer_to_server`` functions register."""

    def __init__(
        self, batches: Mapping[str, BatchHandler] | None = None, starts: Mapping[str, Start] | None = None
    ) -> None:
        self._batches = dict(batches or {})
        self._starts = dict(starts or {})
        self.methods: dict[str, Method] = {}
        self.services: dict[str, dict[str, Handler]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Part of the server's interface that the generated code calls; the registered handlers below say the same."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Takes over a service's methods, wrapped."""
        self.services[service] = {name: self._wrap(f"/{service}/{name}", h) for name, h in handlers.items()}

    def _wrap(self, path: str, handler: Any) -> Handler:
        if handler.request_streaming:
            return self._wrap_conversation(path, handler)
        method = Method(
            path=path,
            streaming=handler.response_streaming,
            behavior=handler.unary_stream if handler.response_streaming else handler.unary_unary,
            deserialize=handler.request_deserializer,
            serialize=handler.response_serializer,
            batch=self._batches.pop(path, None),
            start=self._starts.pop(path, None),
        )
        self.methods[path] = method
        make = grpc.unary_stream_rpc_method_handler if method.streaming else grpc.unary_unary_rpc_method_handler
        face = _streaming_face(method) if method.streaming else _unary_face(method)
        return make(face, handler.request_deserializer, handler.response_serializer)

    @staticmethod
    def _wrap_conversation(path: str, handler: Any) -> Handler:
        """Streams both ways have a stream of their own: a lane carries calls that begin with one message."""
        if not handler.response_streaming:
            raise TypeError(f"{path}: a stream of requests with one answer is not served; a lane carries many calls")
        method = Method(
            path=path,
            streaming=True,
            behavior=handler.stream_stream,
            deserialize=handler.request_deserializer,
            serialize=handler.response_serializer,
        )
        face = _streaming_face(method)
        return grpc.stream_stream_rpc_method_handler(face, handler.request_deserializer, handler.response_serializer)

    def add_to(self, server: Server) -> None:
        """Registers everything with the real server."""
        if unserved := [*self._batches, *self._starts]:
            raise TypeError(f"handlers for methods nobody serves: {', '.join(unserved)}")
        for service, handlers in self.services.items():
            server.add_registered_method_handlers(service, handlers)
        for path, method in self.methods.items():
            if method.batch is not None:
                server.answer_together(path, method.answer_calls)


def _unary_face(method: Method) -> Callable[[Any, Call], Awaitable[Any]]:
    async def face(request: Any, context: Call) -> Any:
        try:
            return await method.answer(request, context, _traceparent(context), context.time_remaining())
        except MeshError as error:
            raise _status_error(error) from error

    return face


def _streaming_face(method: Method) -> Callable[[Any, Call], Awaitable[None]]:
    # A coroutine that writes, and no generator: the server drops generators of calls that are cancelled, and the
    # collector would end them later, outside of the call's task and context, where its guards mistake it for an error.
    async def face(request: Any, context: Call) -> None:
        answers = method.stream(request, context, _traceparent(context), context.time_remaining())
        try:
            async for answer in answers:
                await context.write(answer)
        except MeshError as error:
            raise _status_error(error) from error
        finally:
            await answers.aclose()  # type: ignore[attr-defined]  # an async generator

    return face


def _status_error(error: MeshError) -> StatusError:
    return StatusError(code_of(error), error.message, ((DETAILS_KEY, to_status(error).SerializeToString()),))


def _traceparent(call: Call) -> str:
    return call.header(b"traceparent").decode("latin-1")


def is_idempotent(path: str) -> bool:
    """Whether the contract lets a call of this method be repeated (its `idempotency_level` option)."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    service, _, name = path[1:].rpartition("/")
    try:
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return False
    level = method.GetOptions().idempotency_level
    return level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN


Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]
