"""YAML nodes that know their line: every reader here returns a checked value or says where the file is wrong."""

import re
from collections.abc import Sequence

import yaml

from chassis.errors import Invalid
from services.ratelimit.model.limits import SECOND_US

_DURATION = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_SECONDS = 366 * 86400
_INTEGER = re.compile(r"[0-9][0-9_]{0,18}")


class Source:
    """A file's name and text, and how to complain about a line of it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def wrong(self, node: yaml.Node | None, reason: str) -> Invalid:
        """The error for a node: file, line and reason."""
        line = node.start_mark.line + 1 if node is not None else 1
        return Invalid(f"{self.name}:{line}: {reason}", code="BAD_RULES", details={"line": str(line)})

    def root(self) -> yaml.Node:
        """The document."""
        try:
            node = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark is not None else 1
            reason = f"this is not YAML: {error.problem or error.context}"
            raise Invalid(f"{self.name}:{line}: {reason}", code="BAD_RULES", details={"line": str(line)}) from error
        except yaml.YAMLError as error:
            raise self.wrong(None, f"this is not YAML: {error}") from error
        if node is None:
            raise self.wrong(None, "the file is empty")
        return node

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping as name → (node of the name, node of the value)."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{what} must be a mapping")
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self.text_of(key, "a name")
            if name in entries:
                raise self.wrong(key, f"{name!r} stands here twice")
            entries[name] = (key, value)
        return entries

    def fields(
        self, node: yaml.Node, what: str, *, required: Sequence[str], optional: Sequence[str] = ()
    ) -> dict[str, yaml.Node]:
        """A mapping with exactly these names."""
        entries = self.mapping(node, what)
        for name, (key, _) in entries.items():
            if name not in required and name not in optional:
                raise self.wrong(key, f"{what} has no field {name!r}; it has {', '.join((*required, *optional))}")
        for name in required:
            if name not in entries:
                raise self.wrong(node, f"{what} lacks {name!r}")
        return {name: value for name, (_, value) in entries.items()}

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """A list that is not empty."""
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.wrong(node, f"{what} must be a list with something in it")
        return list(node.value)

    def text_of(self, node: yaml.Node, what: str) -> str:
        """A text that is not empty."""
        if not isinstance(node, yaml.ScalarNode) or not node.value or node.tag == "tag:yaml.org,2002:null":
            raise self.wrong(node, f"{what} must be a text")
        return str(node.value)

    def count(self, node: yaml.Node, what: str, *, least: int, most: int) -> int:
        """A whole number."""
        if not isinstance(node, yaml.ScalarNode) or not _INTEGER.fullmatch(node.value):
            raise self.wrong(node, f"{what} must be a whole number")
        value = int(node.value.replace("_", ""))
        if not least <= value <= most:
            raise self.wrong(node, f"{what} must be between {least} and {most}, not {value}")
        return value

    def duration_us(self, node: yaml.Node, what: str) -> int:
        """A duration such as 30s, 1m, 12h or 1d, in µs."""
        match = _DURATION.fullmatch(self.text_of(node, what))
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 1 <= seconds <= _LONGEST_SECONDS:
            raise self.wrong(node, f"{what} must be a duration such as 30s, 1m, 12h or 1d, at most 366d")
        return seconds * SECOND_US
