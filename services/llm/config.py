"""The settings of the llm service: its chassis groups, its limits, and the providers it may ask."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model, field_validator
from pydantic_settings import NoDecode

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Rpc, Telemetry


class Server(BaseModel):
    """A server that speaks the OpenAI API, as MESH_LLM_PROVIDERS lists it.

    The key is given as it is (`api_key`), as a file's content (`api_key_file`), or as an environment variable's
    (`api_key_env`, whose ``…_FILE`` form works too).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    url: str = Field(pattern=r"^https?://[^\s]+$", description="up to and with the version, as in http://host:8000/v1")
    api_key: SecretStr = SecretStr("")
    api_key_file: Path | None = None
    api_key_env: str = ""
    models: tuple[str, ...] = Field(default=(), description="empty: the server is asked")
    default_model: str = ""
    max_tokens_field: str = "max_tokens"

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name in ("echo", "ollama"):
            raise ValueError(f"{name} is built in")
        return name

    @property
    def key(self) -> str:
        """The key, wherever it comes from; empty for a server that needs none."""
        if self.api_key_file is not None:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        if self.api_key_env:
            field: Any = (SecretStr, Field(validation_alias=self.api_key_env))
            found: Any = create_model("Key", __base__=Group, value=field)()
            secret: SecretStr = found.value
            return secret.get_secret_value()
        return self.api_key.get_secret_value()


class Ollama(Group):
    """The Ollama server; it is looked for, and used when it is there."""

    host: str = Field(default="http://127.0.0.1:11434", validation_alias="OLLAMA_HOST")
    timeout_seconds: float = Field(
        default=15.0, gt=0, validation_alias="OLLAMA_TIMEOUT", description="for which it may be silent"
    )
    default_model: str = Field(default="tinyllama", validation_alias="OLLAMA_MODEL")

    @property
    def url(self) -> str:
        """The address, also when only host:port is given, or the one that Ollama itself is told to listen on."""
        url = self.host if "://" in self.host else f"http://{self.host}"
        return url.replace("//0.0.0.0", "//127.0.0.1").rstrip("/")


class Keys(Group):
    """Well-known providers; each is on when its key is set. The model is the one to prefer, if they have it."""

    openai_key: SecretStr = Field(default=SecretStr(""), validation_alias="OPENAI_API_KEY")
    openai_url: str = Field(default="https://api.openai.com/v1", validation_alias="OPENAI_BASE_URL")
    openai_model: str = Field(default="gpt-4o-mini", validation_alias="OPENAI_MODEL")
    anthropic_key: SecretStr = Field(default=SecretStr(""), validation_alias="ANTHROPIC_API_KEY")
    anthropic_url: str = Field(default="https://api.anthropic.com/v1", validation_alias="ANTHROPIC_BASE_URL")
    anthropic_model: str = Field(default="claude-sonnet-4-5", validation_alias="ANTHROPIC_MODEL")
    gemini_key: SecretStr = Field(default=SecretStr(""), validation_alias="GEMINI_API_KEY")
    gemini_url: str = Field(
        default="https://generativelanguage.googleapis.com/v1beta/openai", validation_alias="GEMINI_BASE_URL"
    )
    gemini_model: str = Field(default="gemini-2.5-flash", validation_alias="GEMINI_MODEL")
    deepseek_key: SecretStr = Field(default=SecretStr(""), validation_alias="DEEPSEEK_API_KEY")
    deepseek_url: str = Field(default="https://api.deepseek.com/v1", validation_alias="DEEPSEEK_BASE_URL")
    deepseek_model: str = Field(default="deepseek-chat", validation_alias="DEEPSEEK_MODEL")

    @property
    def servers(self) -> tuple[Server, ...]:
        """Those whose key is set, in the order in which they are preferred."""
        known = (
            ("openai", self.openai_key, self.openai_url, self.openai_model),
            ("anthropic", self.anthropic_key, self.anthropic_url, self.anthropic_model),
            ("gemini", self.gemini_key, self.gemini_url, self.gemini_model),
            ("deepseek", self.deepseek_key, self.deepseek_url, self.deepseek_model),
        )
        return tuple(
            Server(name=name, url=url, api_key=key, default_model=model, max_tokens_field=_max_tokens_field(url))
            for name, key, url, model in known
            if key.get_secret_value()
        )


def _max_tokens_field(url: str) -> str:
    # OpenAI's newer models refuse the old name; other servers behind OPENAI_BASE_URL mostly know only that one.
    return "max_completion_tokens" if "//api.openai.com" in url else "max_tokens"


class Llm(Group):
    """The service's own limits."""

    default_model: str = Field(default="", validation_alias="MESH_LLM_DEFAULT_MODEL", description="empty: the first")
    servers: Annotated[tuple[Server, ...], NoDecode] = Field(default=(), validation_alias="MESH_LLM_PROVIDERS")
    timeout_seconds: float = Field(default=120.0, gt=0, validation_alias="MESH_LLM_TIMEOUT_SECONDS")
    idle_seconds: float = Field(default=60.0, gt=0, validation_alias="MESH_LLM_IDLE_SECONDS")
    connections: int = Field(default=1024, ge=1, validation_alias="MESH_LLM_CONNECTIONS")
    breaker_failures: int = Field(default=3, ge=1, validation_alias="MESH_LLM_BREAKER_FAILURES")
    breaker_recovery_seconds: float = Field(default=30.0, gt=0, validation_alias="MESH_LLM_BREAKER_RECOVERY_SECONDS")
    usage_buffer_rows: int = Field(default=100_000, ge=1, validation_alias="MESH_LLM_USAGE_BUFFER_ROWS")
    answer_keep_seconds: float = Field(default=86_400.0, gt=0, validation_alias="MESH_LLM_ANSWER_KEEP_SECONDS")
    answer_wait_seconds: float = Field(default=30.0, ge=0, validation_alias="MESH_LLM_ANSWER_WAIT_SECONDS")
    slots: int = Field(default=16, ge=1, validation_alias="MESH_LLM_SLOTS", description="tasks run at once")

    @field_validator("servers", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """A list in JSON or YAML."""
        if not isinstance(value, str):
            return value
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"neither JSON nor YAML: {error}") from error

    @field_validator("servers")
    @classmethod
    def _distinct(cls, servers: tuple[Server, ...]) -> tuple[Server, ...]:
        names = [server.name for server in servers]
        if len(set(names)) < len(names):
            raise ValueError("two providers have the same name")
        return servers


class Settings(Group):
    """Everything the service is told."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    rpc: Rpc = Field(default_factory=Rpc)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    llm: Llm = Field(default_factory=Llm)
    ollama: Ollama = Field(default_factory=Ollama)
    keys: Keys = Field(default_factory=Keys)

    @property
    def servers(self) -> tuple[Server, ...]:
        """All servers that speak the OpenAI API; one in the list replaces a well-known one of its name."""
        listed = {server.name for server in self.llm.servers}
        return (*(server for server in self.keys.servers if server.name not in listed), *self.llm.servers)
