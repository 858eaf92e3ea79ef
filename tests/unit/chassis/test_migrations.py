"""Where migrations are looked for, and what the command line says when they are not there."""

import pytest

from chassis import logging, migrations


@pytest.fixture(autouse=True)
def logging_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command configures the logging of its whole process, which here is that of all tests."""
    monkeypatch.setattr(logging, "configure", lambda _service, _level: None)


def test_a_missing_folder_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the folder it wanted and ends with 2."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert migrations.main(["nosuchservice"]) == 2
    assert "services/nosuchservice has no migrations/env.py" in capsys.readouterr().err


def test_missing_settings_are_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an address the command ends with 2 and names the variable."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert migrations.main(["tasks"]) == 2
    assert "DATABASE_URL" in capsys.readouterr().err


def test_lock_keys_are_stable_and_apart() -> None:
    """Two schemas do not wait for each other, and the key fits a signed 64-bit integer."""
    assert migrations.lock_key("tasks") == migrations.lock_key("tasks")
    assert migrations.lock_key("tasks") != migrations.lock_key("agents")
    assert 0 < migrations.lock_key("tasks") < 2**63
