"""The floor: a bare grpc.aio server that answers what it was asked, with no mesh behind it.

Usage: python bench/ratelimit_echo.py PORT
"""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

METHOD = "/bench.Echo/Echo"


async def _echo(request: bytes, context: Any) -> bytes:
    del context
    return request


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    service, method = METHOD[1:].split("/")
    handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
