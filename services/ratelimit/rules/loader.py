"""From the text of a rules file to the book of rules; the head of `default.yaml` describes the format."""

import re
from collections.abc import Mapping
from hashlib import blake2b

import yaml

from services.ratelimit.model.limits import DIMENSIONS, MAX_COUNT, Algorithm, Limit, RuleBook, limit_of
from services.ratelimit.rules.nodes import Source

_VERSION = 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CLASS = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,7}")
_LONGEST_CLASS = 100
_EXACT_UP_TO = 1000
_MOST_RULES = 8

Rule = Mapping[str, Limit]


def load_book(name: str, text: str) -> RuleBook:
    """The rules of a file. Raises Invalid with ``file:line: reason``.

    Args:
        name: the file's name, for the error.
    """
    return _Loader(Source(name, text)).book()


class _Loader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._exact_up_to = _EXACT_UP_TO
        # By node: a rule that several classes share by a YAML alias is one rule.
        self._rules: dict[int, Rule] = {}
        self._names: dict[str, int] = {}

    def book(self) -> RuleBook:
        source = self._source
        fields = source.fields(source.root(), "the file", required=("version", "classes"), optional=("exact_up_to",))
        source.count(fields["version"], "version", least=_VERSION, most=_VERSION)
        if "exact_up_to" in fields:
            self._exact_up_to = source.count(fields["exact_up_to"], "exact_up_to", least=0, most=10_000)
        generation = int.from_bytes(blake2b(source.text.encode(), digest_size=8).digest(), "big") >> 1
        return RuleBook(classes=self._classes(fields["classes"]), source=source.text, generation=generation)

    def _classes(self, node: yaml.Node) -> dict[str, tuple[Rule, ...]]:
        classes: dict[str, tuple[Rule, ...]] = {}
        borrowed: dict[str, yaml.Node] = {}
        for name, (key, value) in self._source.mapping(node, "classes").items():
            if not _CLASS.fullmatch(name) or len(name) > _LONGEST_CLASS:
                raise self._source.wrong(
                    key, f"{name!r} is no name of a class: lower-case words with dots between them"
                )
            if isinstance(value, yaml.ScalarNode):
                borrowed[name] = value
            else:
                classes[name] = self._class(name, value)
        if not classes:
            raise self._source.wrong(node, "classes must name at least one class with rules")
        for name, value in borrowed.items():
            other = self._source.text_of(value, f"class {name}")
            if other not in classes or other in borrowed:
                raise self._source.wrong(
                    value, f"class {name} refers to {other!r}, which is no class with rules of its own"
                )
            classes[name] = classes[other]
        return classes

    def _class(self, name: str, node: yaml.Node) -> tuple[Rule, ...]:
        nodes = self._source.items(node, f"class {name}")
        if len(nodes) > _MOST_RULES:
            raise self._source.wrong(nodes[_MOST_RULES], f"class {name} has more than {_MOST_RULES} rules")
        if len({id(one) for one in nodes}) < len(nodes):
            raise self._source.wrong(node, f"class {name} has the same rule twice")
        return tuple(self._rules.get(id(one)) or self._rule(one) for one in nodes)

    def _rule(self, node: yaml.Node) -> Rule:
        source = self._source
        fields = source.fields(
            node, "a rule", required=("name", "algorithm", "per", "limit", "window"), optional=("rate",)
        )
        name = source.text_of(fields["name"], "name")
        if not _NAME.fullmatch(name):
            raise source.wrong(fields["name"], f"{name!r} is no name of a rule: lower-case letters, digits and _")
        if name in self._names:
            raise source.wrong(fields["name"], f"rule {name} is already in line {self._names[name]}")
        self._names[name] = fields["name"].start_mark.line + 1
        rule = self._rules[id(node)] = self._limits(name, fields)
        return rule

    def _limits(self, name: str, fields: Mapping[str, yaml.Node]) -> Rule:
        algorithm = self._algorithm(fields["algorithm"])
        window_us = self._source.duration_us(fields["window"], "window")
        bucket = algorithm is Algorithm.TOKEN_BUCKET
        if "rate" in fields and not bucket:
            raise self._source.wrong(
                fields["rate"], f"rate belongs to a {Algorithm.TOKEN_BUCKET}, not to a {algorithm}"
            )
        # What the store cannot count exactly is refused here: its numbers are exact below 2^53.
        most = MAX_COUNT // window_us if bucket else 10**12
        counts = self._by_role(fields["limit"], most)
        rate = self._source.count(fields["rate"], "rate", least=1, most=most) if "rate" in fields else 0
        exact = max(counts.values()) <= self._exact_up_to
        per = self._per(fields["per"])
        return {
            role: limit_of(
                rule=name, algorithm=algorithm, per=per, limit=count, window_us=window_us, rate=rate, exact=exact
            )
            for role, count in counts.items()
        }

    def _algorithm(self, node: yaml.Node) -> Algorithm:
        value = self._source.text_of(node, "algorithm")
        if value not in set(Algorithm):
            raise self._source.wrong(node, f"algorithm must be one of {', '.join(Algorithm)}, not {value!r}")
        return Algorithm(value)

    def _by_role(self, node: yaml.Node, most: int) -> dict[str, int]:
        if isinstance(node, yaml.ScalarNode):
            return {"default": self._source.count(node, "limit", least=1, most=most)}
        counts = {}
        for role, (key, value) in self._source.mapping(node, "limit").items():
            if not _NAME.fullmatch(role):
                raise self._source.wrong(key, f"{role!r} is no name of a role")
            counts[role] = self._source.count(value, f"limit of {role}", least=1, most=most)
        if not counts:
            raise self._source.wrong(node, "limit must be a number, or a number for each role")
        return counts

    def _per(self, node: yaml.Node) -> tuple[str, ...]:
        source = self._source
        nodes = [node] if isinstance(node, yaml.ScalarNode) else source.items(node, "per")
        names = tuple(source.text_of(one, "per") for one in nodes)
        if names == ("all",):
            return ()
        for one, name in zip(nodes, names, strict=True):
            if name not in DIMENSIONS:
                raise source.wrong(one, f"per must be all, or some of {', '.join(DIMENSIONS)}; not {name!r}")
        if len(set(names)) < len(names):
            raise source.wrong(node, "per names the same thing twice")
        return names
