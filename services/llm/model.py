"""A conversation, its answer, and the rules for both. No I/O; time is an argument."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from chassis.errors import Invalid

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})

# Bounds that no sensible request meets; they keep a hostile one from costing memory or money.
MAX_MESSAGES = 2048
MAX_CHARACTERS = 4_000_000
MAX_TOKENS = 1_000_000
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_KEY_CHARACTERS = 255

# The usual rule of thumb for English, used only where a provider does not count.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `parts` and `tool_calls` are as the OpenAI API has them; `content` is empty when `parts` is set."""

    role: str
    content: str = ""
    parts: tuple[Mapping[str, object], ...] = ()
    name: str = ""
    tool_calls: tuple[Mapping[str, object], ...] = ()
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """What it says in words, pictures left out."""
        if not self.parts:
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.parts if part.get("type") == "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What is asked. `options` are further fields of the OpenAI chat API for the providers that understand them."""

    model: str
    messages: tuple[Message, ...]
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    choices: int = 1
    options: Mapping[str, object] = field(default_factory=dict)
    user_id: str = ""
    api_key_id: str = ""
    idempotency_key: str = ""

    def check(self) -> None:
        """Raises Invalid, naming the field, when the request can never be answered."""
        if not self.messages:
            raise _wrong("messages", "There must be at least one message")
        if len(self.messages) > MAX_MESSAGES:
            raise _wrong("messages", f"There may be at most {MAX_MESSAGES} messages")
        for message in self.messages:
            _check_message(message)
        if sum(len(message.content) for message in self.messages) > MAX_CHARACTERS:
            raise _wrong("messages", f"The conversation is longer than {MAX_CHARACTERS} characters")
        self._check_numbers()

    def _check_numbers(self) -> None:
        # Written so that a NaN, which compares false with everything, is refused too.
        if self.temperature is not None and not 0 <= self.temperature <= 2:  # noqa: PLR2004 - the OpenAI API's range
            raise _wrong("temperature", "The temperature must be between 0 and 2")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise _wrong("top_p", "top_p must be between 0 and 1")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MAX_TOKENS:
            raise _wrong("max_tokens", f"max_tokens must be between 1 and {MAX_TOKENS}")
        if not 1 <= self.choices <= MAX_CHOICES:
            raise _wrong("n", f"There may be 1 to {MAX_CHOICES} choices")
        if len(self.stop) > MAX_STOPS:
            raise _wrong("stop", f"There may be at most {MAX_STOPS} stop sequences")
        if len(self.idempotency_key) > MAX_KEY_CHARACTERS or not (self.user_id + self.idempotency_key).isprintable():
            raise _wrong("idempotency_key", f"The key may have at most {MAX_KEY_CHARACTERS} printable characters")

    @property
    def fingerprint(self) -> bytes:
        """The same for two requests that ask the same, whoever asks and under whichever key."""
        asked = asdict(replace(self, user_id="", api_key_id="", idempotency_key=""))
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=list).encode()).digest()

    @property
    def estimated_tokens(self) -> int:
        """The length of the conversation, for providers that do not count."""
        return estimate_tokens(message.text for message in self.messages)


def _check_message(message: Message) -> None:
    if message.role not in ROLES:
        raise _wrong("role", f"Unknown role; known are {', '.join(sorted(ROLES))}")
    if message.role == "user" and not message.parts and not message.content.strip():
        raise _wrong("content", "The message is empty")
    if message.role == "tool" and not message.tool_call_id:
        raise _wrong("tool_call_id", "A tool's answer must name the call it answers")


def _wrong(name: str, sentence: str) -> Invalid:
    return Invalid(sentence, details={"field": name})


def estimate_tokens(texts: Iterable[str]) -> int:
    """About how many tokens some text has; never 0 for text that is there."""
    return -(-sum(map(len, texts)) // _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens read and written."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers. `finish_reason` is stop, length, tool_calls or content_filter."""

    index: int
    message: Message
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer. `model` is the full name of the one that answered."""

    id: str
    model: str
    provider: str
    choices: tuple[Choice, ...]
    usage: Usage
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What is new in one choice; `finish_reason` is set on its last delta."""

    index: int
    content: str = ""
    tool_calls: tuple[Mapping[str, object], ...] = ()
    finish_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One event of a streamed answer; the last one, and only that one, has `usage`."""

    id: str
    model: str
    provider: str
    deltas: tuple[Delta, ...] = ()
    usage: Usage | None = None


class ModelStatus(StrEnum):
    """Whether a model can be asked: in memory now, known to its provider, or its provider does not answer."""

    LOADED = "loaded"
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that can be asked for. `size_bytes` is 0 where the provider does not tell; `aliases` work as well."""

    name: str
    provider: str
    aliases: tuple[str, ...] = ()
    size_bytes: int = 0
    status: ModelStatus = ModelStatus.AVAILABLE
    last_used_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """How far a model has been fetched: of the bytes known so far, and what is done now in the server's own words."""

    done_bytes: int
    total_bytes: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """What is known of a provider now. `circuit` is closed, open or half_open."""

    name: str
    available: bool
    circuit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One request as it is accounted for. `outcome` is ok, cancelled or the code of the error."""

    at: datetime
    user_id: str
    api_key_id: str
    model: str
    provider: str
    outcome: str
    usage: Usage
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """The sum of the charges of one model."""

    model: str
    requests: int
    failures: int
    input_tokens: int
    output_tokens: int


def unknown_model(name: str) -> Invalid:
    """The error for a model that nobody has."""
    return Invalid(
        f"The model `{name[:100]}` is not available; the list of models names those that are",
        code="MODEL_NOT_FOUND",
        details={"model": name[:100]},
    )
