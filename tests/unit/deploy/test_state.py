"""The state directory: small files that are whole, private where they must be, and a lock that tells who runs."""

from pathlib import Path

from deploy.local.state import StateDir, parse_env, render_env, write_whole


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_env_survives_the_shell_and_back():
    """Values with spaces, quotes and dollars come back as they were."""
    values = {"PLAIN": "http://127.0.0.1:8000", "ODD": "a b'c\"d$e#f", "EMPTY": ""}
    assert parse_env(render_env(values)) == values


def test_secrets_are_made_once_and_kept_private(tmp_path: Path):
    """A second look gives the same secrets, and only the owner may read the file."""
    first = StateDir(tmp_path).secrets()
    assert StateDir(tmp_path).secrets() == first
    assert len(set(first.values())) == len(first)
    assert min(map(len, first.values())) >= 32
    assert mode(tmp_path / "secrets.json") == 0o600


def test_a_secret_that_is_new_in_this_version_is_added(tmp_path: Path):
    """An older file keeps its secrets and gets those it lacks."""
    write_whole(tmp_path / "secrets.json", '{"JWT_SECRET": "old"}', mode=0o600)
    secrets = StateDir(tmp_path).secrets()
    assert secrets["JWT_SECRET"] == "old"
    assert "ADMIN_PASSWORD" in secrets


def test_env_file_is_private(tmp_path: Path):
    """It holds logins."""
    state = StateDir(tmp_path)
    state.write_env({"ADMIN_PASSWORD": "x"})
    assert mode(state.env_file) == 0o600


def test_one_supervisor_a_directory(tmp_path: Path):
    """The lock is refused to a second one and free again after the first."""
    first, second = StateDir(tmp_path), StateDir(tmp_path)
    assert first.try_lock()
    assert second.supervised()
    assert not second.try_lock()
    first.unlock()
    assert not second.supervised()
    assert second.try_lock()


def test_pid_files_name_processes(tmp_path: Path):
    """A file without a number names nobody."""
    state = StateDir(tmp_path)
    state.write_pid("redis", 42)
    state.pid_file("torn").write_text("", encoding="ascii")
    assert state.named_pids() == {"redis": 42}
    state.forget_pid("redis")
    assert state.read_pid("redis") is None
