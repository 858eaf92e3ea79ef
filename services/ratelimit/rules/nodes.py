"""YAML nodes that know their line: every reader here returns a checked value or says where the file is wrong.

Nodes and not values, because values have lost their lines, names that stand twice, and which rules are one by an alias.
An alias is never written out, so a text cannot grow in here.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

import yaml

from chassis.errors import Invalid
from services.ratelimit.model.limits import SECOND_US

E = TypeVar("E", bound=StrEnum)

_DURATION = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INTEGER = re.compile(r"0|[1-9][0-9_]{0,18}")
_INTEGER_TAG = "tag:yaml.org,2002:int"
_NULL_TAG = "tag:yaml.org,2002:null"
_DEEPEST = 16
_LONGEST_SHOWN = 64


def shown(text: str) -> str:
    """A text of the file in quotes, cut where it is long."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def bad_rules(name: str, line: int, reason: str) -> Invalid:
    """The refusal of a rules file: file, line and reason, as ``limits.yaml:7: limit must be a whole number``."""
    return Invalid(f"{name}:{line}: {reason}", code="BAD_RULES", details={"line": str(line), "reason": reason})


class Source:
    """A file's name and text, and how to complain about a line of it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def wrong(self, node: yaml.Node | None, reason: str) -> Invalid:
        """The error for a node: file, line and reason."""
        line = node.start_mark.line + 1 if node is not None else 1
        return bad_rules(self.name, line, reason)

    def root(self) -> yaml.Node:
        """The document."""
        try:
            self._measure()
            node = yaml.compose(self.text, Loader=yaml.CSafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark is not None else 1
            raise bad_rules(self.name, line, f"this is not YAML: {error.problem or error.context}") from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            raise bad_rules(self.name, line, f"this is not YAML: {error.reason}") from error
        if node is None:
            raise self.wrong(None, "the file is empty")
        return node

    def _measure(self) -> None:
        """Refuses what is nested so deeply that the stack of the recursive composer would be in danger."""
        depth = 0
        for event in yaml.parse(self.text, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise bad_rules(self.name, line, f"nested deeper than {_DEEPEST} levels")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping as name → (node of the name, node of the value)."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{what} must be a mapping")
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self.text_of(key, "a name")
            if name in entries:
                raise self.wrong(key, f"{shown(name)} stands here twice")
            entries[name] = (key, value)
        return entries

    def fields(
        self, node: yaml.Node, what: str, *, required: Sequence[str], optional: Sequence[str] = ()
    ) -> dict[str, yaml.Node]:
        """A mapping with exactly these names."""
        entries = self.mapping(node, what)
        for name, (key, _) in entries.items():
            if name not in required and name not in optional:
                raise self.wrong(key, f"{what} has no field {shown(name)}; it has {', '.join((*required, *optional))}")
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
        if not isinstance(node, yaml.ScalarNode) or not node.value or node.tag == _NULL_TAG:
            raise self.wrong(node, f"{what} must be a text")
        return str(node.value)

    def count(self, node: yaml.Node, what: str, *, least: int, most: int) -> int:
        """A whole number."""
        if not isinstance(node, yaml.ScalarNode) or node.tag != _INTEGER_TAG or not _INTEGER.fullmatch(node.value):
            raise self.wrong(node, f"{what} must be a whole number")
        value = int(node.value.replace("_", ""))
        if not least <= value <= most:
            raise self.wrong(node, f"{what} must be between {least} and {most}, not {value}")
        return value

    def truth(self, node: yaml.Node, what: str) -> bool:
        """A truth value, as ``true`` or ``false``."""
        value = self.text_of(node, what)
        if value not in {"true", "false"}:
            raise self.wrong(node, f"{what} must be true or false")
        return value == "true"

    def one_of(self, node: yaml.Node, what: str, choices: type[E]) -> E:
        """One of the values of an enumeration."""
        value = self.text_of(node, what)
        if value not in set(choices):
            raise self.wrong(node, f"{what} must be one of {', '.join(choices)}; not {shown(value)}")
        return choices(value)

    def duration_us(self, node: yaml.Node, what: str, *, most_seconds: int) -> int:
        """A duration such as 30s, 1m, 12h or 1d, in µs."""
        match = _DURATION.fullmatch(self.text_of(node, what))
        seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
        if not 1 <= seconds <= most_seconds:
            days, rest = divmod(most_seconds, 86400)
            most = f"{days}d" if not rest else f"{most_seconds}s"
            raise self.wrong(node, f"{what} must be a duration such as 5s, 1m, 12h or 1d, at most {most}")
        return seconds * SECOND_US
