"""What OpenAI's clients send and get. The bodies are typed dictionaries: they validate in under a microsecond and
document themselves, so what is accepted and what is documented are one definition.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from services.gateway.apis.shapes import WHOLE

_INT64 = 2**63
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class ChatMessage(TypedDict):
    """One message of a conversation; further fields are passed over."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's own spelling for TypedDict

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: NotRequired[str | list[dict[str, Any]] | None]
    name: NotRequired[str | None]
    tool_calls: NotRequired[list[dict[str, Any]] | None]
    tool_call_id: NotRequired[str | None]


class StreamOptions(TypedDict):
    """With `include_usage`, a last chunk without choices tells the tokens used."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's own spelling for TypedDict

    include_usage: NotRequired[bool | None]


class ChatCompletionRequest(TypedDict):
    """A conversation to complete. Fields that are not listed (tools, response_format, …) go on to the provider."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's own spelling for TypedDict

    model: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    temperature: NotRequired[Temperature | None]
    top_p: NotRequired[Share | None]
    max_tokens: NotRequired[TokenCount | None]
    max_completion_tokens: NotRequired[TokenCount | None]
    n: NotRequired[Annotated[int, Field(ge=1, le=128), WHOLE] | None]
    stop: NotRequired[Stop | Annotated[list[Stop], Field(max_length=16)] | None]
    seed: NotRequired[Annotated[int, Field(ge=-_INT64, le=_INT64 - 1), WHOLE] | None]
    stream: NotRequired[bool | None]
    stream_options: NotRequired[StreamOptions | None]
    user: NotRequired[str | None]


class AnswerMessage(TypedDict):
    """What the model said."""

    role: str
    content: str | None
    refusal: str | None
    tool_calls: NotRequired[list[dict[str, Any]]]


class Choice(TypedDict):
    """One of the answers asked for."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str


class Usage(TypedDict):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(TypedDict):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str | None


class OpenAIModel(TypedDict):
    """A model that can be asked for. `created` is Unix time; 0 where its provider does not tell."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIErrorDetail(TypedDict):
    """What went wrong. `code` is stable."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    """The body of every answer that is no success."""

    error: OpenAIErrorDetail


CHAT_REQUEST: TypeAdapter[ChatCompletionRequest] = TypeAdapter(ChatCompletionRequest)


class Delta(TypedDict):
    """What is new in a choice. `role` comes with the first."""

    role: NotRequired[str]
    content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]


class ChunkChoice(TypedDict):
    """A choice's part in a chunk. `finish_reason` comes with its last."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: str | None


class ChatCompletionChunk(TypedDict):
    """An event of a streamed answer; after the last comes ``[DONE]``. An event with `error` ends it instead."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChunkChoice]
    usage: NotRequired[Usage | None]
