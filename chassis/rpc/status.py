"""The one table MeshError ↔ gRPC status, in both directions, with reason, details and retry delay.

Details travel as `google.rpc.Status` (ErrorInfo, RetryInfo) in ``grpc-status-details-bin``, the standard place.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from chassis import errors

DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "agentmesh"

_CODES: dict[type[errors.MeshError], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_ERRORS: dict[grpc.StatusCode, type[errors.MeshError]] = {code: kind for kind, code in _CODES.items()} | {
    # What gRPC itself or another implementation may answer.
    grpc.StatusCode.ALREADY_EXISTS: errors.Conflict,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.OUT_OF_RANGE: errors.Invalid,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: errors.MeshError) -> grpc.StatusCode:
    """The gRPC code an error travels as."""
    return _CODES.get(type(error), grpc.StatusCode.INTERNAL)


def to_status(error: errors.MeshError) -> status_pb2.Status:
    """The error as it travels: public parts only, the private text stays here."""
    status = status_pb2.Status(code=code_of(error).value[0], message=error.message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=error.code, domain=_DOMAIN, metadata=dict(error.details))
    )
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_status(status: status_pb2.Status, peer: str) -> errors.MeshError:
    """The error a peer sent. What is not in the table is Internal, with the peer's words kept private."""
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    kind = _ERRORS.get(code)
    if kind is None:
        return errors.Internal(private=f"{peer}: {code.name}: {status.message}")
    reason, details, retry_after = "", {}, None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, details = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            hint = error_details_pb2.RetryInfo()
            detail.Unpack(hint)
            retry_after = hint.retry_delay.ToNanoseconds() / 1e9
    if not reason:
        # Not one of our errors: gRPC itself speaks (connection refused, deadline), and its text may name addresses.
        return kind(private=f"{peer}: {code.name}: {status.message}", retry_after_seconds=retry_after)
    return kind(status.message, code=reason, details=details, private=peer, retry_after_seconds=retry_after)


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> errors.MeshError:
    """The error of a call that failed."""
    for key, value in _pairs(error.trailing_metadata()):
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value), peer)
    return from_status(status_pb2.Status(code=error.code().value[0], message=error.details() or ""), peer)


def _pairs(metadata: object) -> Iterable[tuple[str, str | bytes]]:
    return metadata if metadata is not None else ()  # type: ignore[return-value]  # grpc's Metadata yields such pairs
