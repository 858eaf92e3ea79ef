"""The settings: which providers they name, and which they refuse."""

from typing import Any

import pytest
from pydantic import ValidationError

from chassis.config import Postgres, Rabbit
from services.llm.config import Keys, Llm, Ollama, Server, Settings


def servers(**groups: Any) -> tuple[Server, ...]:
    postgres = Postgres(url="postgresql://x@127.0.0.1/x")
    rabbit = Rabbit(url="amqp://x@127.0.0.1/")
    return Settings(postgres=postgres, rabbit=rabbit, **{"llm": Llm(), "keys": Keys(), **groups}).servers


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ollama:11434", "http://ollama:11434"),
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("https://o.example/", "https://o.example"),
    ],
)
def test_ollamas_address_in_all_its_forms(given, url):
    """As Ollama's own tools understand it."""
    assert Ollama(host=given).url == url


def test_nothing_is_on_without_a_key():
    """An unconfigured mesh asks nobody outside."""
    assert servers() == ()


def test_keys_switch_providers_on(monkeypatch):
    """Each by its own variable, with its own address."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY"):
        monkeypatch.setenv(name, f"key-of-{name}")
    found = servers()
    assert [server.name for server in found] == ["openai", "anthropic", "gemini", "deepseek"]
    assert all(server.url.startswith("https://") for server in found)
    assert found[0].key == "key-of-OPENAI_API_KEY"
    assert (found[0].max_tokens_field, found[1].max_tokens_field) == ("max_completion_tokens", "max_tokens")


@pytest.mark.parametrize(
    "text", ['[{"name": "vllm", "url": "http://v:8000/v1"}]', "- name: vllm\n  url: http://v:8000/v1\n"]
)
def test_servers_listed_as_json_or_yaml(monkeypatch, text):
    """Both are read from the one variable."""
    monkeypatch.setenv("MESH_LLM_PROVIDERS", text)
    assert [(server.name, server.url, server.key) for server in Llm().servers] == [("vllm", "http://v:8000/v1", "")]


def test_where_a_key_comes_from(monkeypatch, tmp_path):
    """From a file, or from a variable, or from the list itself."""
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("VLLM_KEY", "from-environment")
    base = {"name": "vllm", "url": "http://v/v1"}
    assert Server(**base, api_key_file=tmp_path / "key").key == "from-file"
    assert Server(**base, api_key_env="VLLM_KEY").key == "from-environment"
    assert Server(**base, api_key="from-list").key == "from-list"


def test_a_listed_server_replaces_a_well_known_one():
    """So that a proxy can stand in its place."""
    listed = Server(name="openai", url="http://proxy/v1")
    assert servers(llm=Llm(servers=(listed,)), keys=Keys(openai_key="k")) == (listed,)


@pytest.mark.parametrize(
    "text",
    [
        "[{",
        "just words",
        '[{"name": "echo", "url": "http://x/v1"}]',
        '[{"name": "a", "url": "ftp://x"}]',
        '[{"name": "a", "url": "http://x", "api_kye": "typo"}]',
        '[{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}]',
    ],
)
def test_bad_lists_are_refused_at_start(monkeypatch, text):
    """A setting that would do nothing is an error, not a surprise later."""
    monkeypatch.setenv("MESH_LLM_PROVIDERS", text)
    with pytest.raises(ValidationError):
        Llm()
