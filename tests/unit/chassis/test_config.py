"""Settings come from the environment, from mounted files, and from nowhere else."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis.config import Discovery, Postgres, Process, Rabbit, Redis


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "AMQP_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def test_a_required_setting_has_no_default():
    """A missing address is an error, not a guess."""
    with pytest.raises(ValidationError, match="DATABASE_URL"):
        Postgres()


def test_a_secret_can_be_a_mounted_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """NAME_FILE names a file whose content is the value, without the line's end."""
    (tmp_path / "amqp").write_text("amqp://u:p@h/\n")
    monkeypatch.setenv("AMQP_URL_FILE", str(tmp_path / "amqp"))
    assert Rabbit().url.get_secret_value() == "amqp://u:p@h/"


def test_redis_by_parts(monkeypatch: pytest.MonkeyPatch):
    """Host, port and password make the URL when none is given."""
    monkeypatch.setenv("REDIS_HOST", "store")
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    assert Redis().url.get_secret_value() == "redis://:secret@store:6379/0"


def test_an_empty_variable_means_not_set(monkeypatch: pytest.MonkeyPatch):
    """Compose files hand through empty variables; they must not shadow defaults."""
    monkeypatch.setenv("MESH_LOG_LEVEL", "")
    assert Process().log_level == "info"


def test_secrets_do_not_print(monkeypatch: pytest.MonkeyPatch):
    """The representation of settings can be logged."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/d")
    assert "hunter2" not in repr(Postgres())


def test_static_addresses_are_a_list(monkeypatch: pytest.MonkeyPatch):
    """Several instances are separated by commas."""
    monkeypatch.setenv("TASKS_ADDRESS", "a:1, b:2")
    settings = Discovery()
    assert settings.static_addresses("tasks") == ("a:1", "b:2")
    assert settings.static_addresses("nobody") == ()
