"""The floor: what a bare FastAPI application does on the same server, with no mesh behind it."""

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.responses import Response

app = FastAPI()


@app.post("/v1/chat/completions")
async def echo(request: Request) -> Response:
    """Parses the body and answers in the shape of a chat completion."""
    body: dict[str, Any] = await request.json()
    text = body["messages"][-1]["content"]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
    return Response(orjson.dumps({**answer, "usage": usage}), media_type="application/json")
