"""A rules file as JSON and back: the same structure; a rule that classes share by an alias is named where it stands
again.

What a rule means is the ratelimit service's to know. It has accepted every text that comes here, so there is nothing to
refuse and no alias that grows.
"""

import re
from typing import Any

import orjson
import yaml

_INTEGER = "tag:yaml.org,2002:int"
_BOOLEAN = "tag:yaml.org,2002:bool"
# In quotes YAML reads these in a way of its own.
_SPECIAL = '"\\'
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


def rules_of(text: str) -> dict[str, Any]:
    """The text's structure; it may be put in force as it is."""
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    shown: set[int] = set()
    return {key.value: _value(value, shown) for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}


def _value(node: yaml.Node, shown: set[int]) -> Any:
    match node:
        case yaml.MappingNode():
            name = next((value.value for key, value in node.value if key.value == "name"), None)
            if name is not None and id(node) in shown:
                return name
            shown.add(id(node))
            return {key.value: _value(value, shown) for key, value in node.value}
        case yaml.SequenceNode():
            return [_value(item, shown) for item in node.value]
        case yaml.ScalarNode(tag=tag, value=value) if tag == _INTEGER:
            return int(value.replace("_", ""))
        case yaml.ScalarNode(tag=tag, value=value) if tag == _BOOLEAN:
            return value == "true"
    return node.value


def yaml_of(text: str) -> str:
    """Valid JSON as YAML that means the same, line by line, so that lines of errors are the sender's.

    JSON is YAML but for tabs between values and for strings, where YAML takes other escapes and not every character.
    """
    return _JSON_STRING.sub(_quoted, text.replace("\t", " "))


def _quoted(string: re.Match[str]) -> str:
    plain = orjson.loads(string[0])
    return '"' + "".join(c if c.isprintable() and c not in _SPECIAL else f"\\U{ord(c):08x}" for c in plain) + '"'
