"""Settings by the names of envoyproxy/ratelimit."""

import pytest
from pydantic import ValidationError

from chassis.config import given
from services.ratelimit.config import WITHOUT_MEANING, Settings


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "MESH_LOG_LEVEL", "LOG_LEVEL", "HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNTIME_ROOT", "/data")


ADDRESSES = [
    ({"REDIS_URL": "redis:6379"}, "redis://redis:6379"),
    ({"REDIS_URL": "redis:6379", "REDIS_AUTH": "p@ss"}, "redis://:p%40ss@redis:6379"),
    ({"REDIS_URL": "redis:6379", "REDIS_AUTH": "me:p:w", "REDIS_TLS": "true"}, "rediss://me:p%3Aw@redis:6379"),
    ({"REDIS_URL": "/run/redis.sock", "REDIS_SOCKET_TYPE": "unix"}, "unix:///run/redis.sock"),
    ({"REDIS_URL": "redis://redis:6379/3", "REDIS_SOCKET_TYPE": "TCP"}, "redis://redis:6379/3"),
]


@pytest.mark.parametrize(("environment", "url"), ADDRESSES, ids=[url for _, url in ADDRESSES])
def test_redis_is_named_by_host_and_port(
    environment: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or by a path; with its login beside it; or by a URL as everywhere in the mesh."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().redis.url.get_secret_value() == url


def test_a_cluster_is_named_by_some_of_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_TYPE says that it is one."""
    monkeypatch.setenv("REDIS_URL", "one:6379,two:6379")
    monkeypatch.setenv("REDIS_TYPE", "CLUSTER")
    redis = Settings().redis
    assert (redis.url.get_secret_value(), redis.cluster) == ("redis://one:6379,two:6379", True)


def test_faces_are_local_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host is 127.0.0.1 by default, and ports are those of Envoy's service."""
    envoy = Settings().envoy
    assert envoy is not None
    hosts = (envoy.host, envoy.grpc_host, envoy.debug_host)
    assert (hosts, envoy.port, envoy.grpc_port, envoy.debug_port) == (("127.0.0.1",) * 3, 8080, 8081, 6070)
    monkeypatch.setenv("GRPC_HOST", "0.0.0.0")
    monkeypatch.setenv("GRPC_MAX_CONNECTION_AGE", "1h30m")
    envoy = Settings().envoy
    assert envoy is not None
    assert (envoy.grpc_host, envoy.max_connection_age_seconds) == ("0.0.0.0", 5400)


def test_the_level_is_that_of_envoys_name_unless_the_mesh_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """WARN is warning; MESH_LOG_LEVEL wins."""
    monkeypatch.setenv("LOG_LEVEL", "WARN")
    assert Settings().process.log_level == "warning"
    monkeypatch.setenv("MESH_LOG_LEVEL", "debug")
    assert Settings().process.log_level == "debug"


UNSUPPORTED = {
    "REDIS_TYPE": "sentinel",
    "BACKEND_TYPE": "memcache",
    "CONFIG_TYPE": "GRPC_XDS_SOTW",
    "GRPC_CLIENT_TLS_SAN": "envoy",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_change_the_meaning_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another store, another source of configuration, a check that is not made: the start ends with a sentence."""
    monkeypatch.setenv(name, UNSUPPORTED[name])
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_nothing_of_it_is_read_without_a_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """PORT and its like mean other things to other programs."""
    monkeypatch.delenv("RUNTIME_ROOT")
    monkeypatch.setenv("PORT", "http")
    assert Settings().envoy is None


def test_settings_without_meaning_are_found_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are set, and no others."""
    monkeypatch.setenv("USE_STATSD", "false")
    monkeypatch.setenv("REDIS_POOL_SIZE", "10")
    assert sorted(given(WITHOUT_MEANING)) == ["REDIS_POOL_SIZE", "USE_STATSD"]
