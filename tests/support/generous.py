"""A rules file under which nobody meets a limit, for tests that ask much and are not about limits."""

from pathlib import Path

_FAMILIES = ("v1", "aios", "openai", "support", "cwmai", "orchestrator")


def write_rules(path: Path) -> Path:
    """Writes the file and returns its path."""
    rule = "{{ name: {0}, algorithm: fixed_window, per: user, limit: 100000000, window: 1m }}"
    classes = "".join(f"  {name}.default:\n    - {rule.format(name)}\n" for name in _FAMILIES)
    path.write_text(f"version: 1\nclasses:\n{classes}", encoding="utf-8")
    return path
