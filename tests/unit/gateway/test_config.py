from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from services.gateway.config import Accounts, Http, Settings

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET", "SECRET_KEY", "JWT_ALGORITHM", "ADMIN_USERNAME", "ADMIN_PASSWORD", "MESH_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["JWT_SECRET", "SECRET_KEY"])
def test_the_secret_has_two_names(monkeypatch: pytest.MonkeyPatch, name: str):
    """Either of the names that the documents use will do."""
    monkeypatch.setenv(name, SECRET)
    accounts = Accounts()
    assert accounts.secret.get_secret_value() == SECRET
    assert (accounts.access_seconds, accounts.algorithm) == (1800, "HS256")
    assert SECRET not in repr(accounts)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"JWT_SECRET": "short"},
        {"JWT_SECRET": SECRET, "JWT_ALGORITHM": "none"},
        {"JWT_SECRET": SECRET, "JWT_ALGORITHM": "HS512"},
        {"JWT_SECRET": SECRET, "ADMIN_USERNAME": "root"},
        {"JWT_SECRET": SECRET, "ACCESS_TOKEN_EXPIRE_MINUTES": "0"},
    ],
)
def test_bad_account_settings_stop_the_start(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]):
    """No default secret, none too short for its algorithm, no half an administrator."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Accounts()


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch):
    """Origins, hosts and proxies."""
    monkeypatch.setenv("MESH_CORS_ORIGINS", "http://a, http://b,")
    monkeypatch.setenv("MESH_TRUSTED_PROXIES", "10.0.0.0/8,::1")
    http = Http()
    assert http.origins == ("http://a", "http://b")
    assert http.proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert (http.hosts, http.port, http.is_tls) == (("*",), 8000, False)


def test_the_native_frontend_may_call_by_default():
    """The origins of the native API's document."""
    assert "http://localhost:10011" in Http().origins


@pytest.mark.parametrize(
    ("name", "value"),
    [("MESH_TRUSTED_PROXIES", "nonsense"), ("MESH_TLS_KEY", "key.pem"), ("MESH_HTTP_PORT", "0")],
)
def test_bad_listener_settings_stop_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    """What cannot work is said before anything is opened."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Http()


def test_all_of_it(monkeypatch: pytest.MonkeyPatch):
    """The whole is made of its groups."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    monkeypatch.setenv("DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("AMQP_URL", "amqp://x")
    assert Settings().http.body_limit_bytes == 1024 * 1024
