"""The floor: a bare grpc.aio server that answers every call with the same bytes, with no mesh behind it.

Usage: python bench/ratelimit_echo.py PORT METHOD=HEX... (the answer to each method)
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import uvloop


def _answering(answer: bytes) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def echo(request: bytes, context: Any) -> bytes:
        del request, context
        return answer

    return echo


async def _serve(port: int, answers: dict[str, bytes]) -> None:
    server = grpc.aio.server()
    for path, answer in answers.items():
        service, method = path.strip("/").split("/")
        handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(_answering(answer))}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    told = dict(argument.split("=", 1) for argument in sys.argv[2:])
    uvloop.run(_serve(int(sys.argv[1]), {path: bytes.fromhex(answer) for path, answer in told.items()}))
