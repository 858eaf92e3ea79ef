"""What the gateway can be told from outside."""

from ipaddress import ip_network
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator

from chassis.config import Discovery, Group, Postgres, Process, Rabbit, Telemetry
from services.gateway.edge.security import Network
from services.gateway.identity.tokens import ALGORITHMS

# Those of the native API's own frontend.
_ORIGINS = "http://localhost:10011,http://localhost:10010,http://127.0.0.1:10011,http://127.0.0.1:10010"


class Http(Group):
    """The listener, and what it lets in."""

    port: int = Field(default=8000, ge=1, le=65535, validation_alias="MESH_HTTP_PORT")
    body_limit_bytes: int = Field(default=1024 * 1024, ge=1024, validation_alias="MESH_BODY_LIMIT_BYTES")
    cors_origins: str = Field(
        default=_ORIGINS, validation_alias="MESH_CORS_ORIGINS", description="origins, separated by commas; * for all"
    )
    trusted_hosts: str = Field(
        default="*",
        validation_alias="MESH_TRUSTED_HOSTS",
        description="Host headers to answer; .example.org: and below",
    )
    trusted_proxies: str = Field(
        default="", validation_alias="MESH_TRUSTED_PROXIES", description="networks whose X-Forwarded-For is believed"
    )
    tls_certificate: str = Field(default="", validation_alias="MESH_TLS_CERTIFICATE", description="PEM file")
    tls_key: str = Field(default="", validation_alias="MESH_TLS_KEY", description="PEM file")
    behind_tls: bool = Field(
        default=False, validation_alias="MESH_BEHIND_TLS", description="a proxy in front ends TLS: send HSTS"
    )
    chat_timeout_seconds: float = Field(default=120.0, gt=0, validation_alias="MESH_CHAT_TIMEOUT_SECONDS")

    @property
    def origins(self) -> tuple[str, ...]:
        return _parts(self.cors_origins)

    @property
    def hosts(self) -> tuple[str, ...]:
        return _parts(self.trusted_hosts)

    @property
    def proxies(self) -> tuple[Network, ...]:
        return tuple(ip_network(part) for part in _parts(self.trusted_proxies))

    @property
    def is_tls(self) -> bool:
        return self.behind_tls or bool(self.tls_certificate)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("MESH_TLS_CERTIFICATE and MESH_TLS_KEY belong together")
        # Raises ValueError for what is no network, here and not at the first request.
        for part in _parts(self.trusted_proxies):
            ip_network(part)
        return self


class Accounts(Group):
    """Tokens, and the first administrator."""

    secret: SecretStr = Field(
        validation_alias=AliasChoices("JWT_SECRET", "SECRET_KEY"), description="signs access tokens; at least 32 bytes"
    )
    algorithm: Literal["HS256", "HS384", "HS512"] = Field(default="HS256", validation_alias="JWT_ALGORITHM")
    issuer: str = Field(default="agentmesh", min_length=1, validation_alias="JWT_ISSUER")
    audience: str = Field(default="agentmesh", min_length=1, validation_alias="JWT_AUDIENCE")
    access_minutes: float = Field(default=30, gt=0, le=24 * 60, validation_alias="ACCESS_TOKEN_EXPIRE_MINUTES")
    refresh_days: float = Field(default=14, gt=0, le=365, validation_alias="REFRESH_TOKEN_EXPIRE_DAYS")
    admin_username: str = Field(default="", validation_alias="ADMIN_USERNAME")
    admin_email: str = Field(default="", validation_alias="ADMIN_EMAIL")
    admin_password: SecretStr = Field(default=SecretStr(""), validation_alias="ADMIN_PASSWORD")
    # About half a kilobyte each.
    verified_credentials: int = Field(default=20_000, ge=1, validation_alias="MESH_VERIFIED_CREDENTIALS")

    @property
    def access_seconds(self) -> int:
        return int(self.access_minutes * 60)

    @property
    def refresh_seconds(self) -> int:
        return int(self.refresh_days * 24 * 3600)

    @model_validator(mode="after")
    def _check(self) -> Self:
        least = ALGORITHMS[self.algorithm]
        if len(self.secret.get_secret_value().encode()) < least:
            raise ValueError(f"JWT_SECRET (or SECRET_KEY) needs at least {least} bytes for {self.algorithm}")
        if bool(self.admin_username) != bool(self.admin_password.get_secret_value()):
            raise ValueError("ADMIN_USERNAME and ADMIN_PASSWORD belong together")
        return self


class Settings(Group):
    """All of it."""

    process: Process = Field(default_factory=Process)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    discovery: Discovery = Field(default_factory=Discovery)
    postgres: Postgres = Field(default_factory=Postgres)
    rabbit: Rabbit = Field(default_factory=Rabbit)
    http: Http = Field(default_factory=Http)
    accounts: Accounts = Field(default_factory=Accounts)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
