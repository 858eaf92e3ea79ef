"""From the text of a rules file to the book of rules; the head of `default.yaml` describes the format."""

import re
from collections.abc import Mapping
from hashlib import blake2b

import yaml

from services.ratelimit.model.book import RuleBook
from services.ratelimit.model.limits import OVERRIDABLE, Limit
from services.ratelimit.rules.draft import Draft, DraftReader
from services.ratelimit.rules.nodes import Source, bad_rules, shown

LARGEST_BYTES = 256 * 1024

_VERSION = 1
_CLASS = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,7}")
_LONGEST_CLASS = 100
_EXACT_UP_TO = 250
_MOST_CLASSES = 1000
_MOST_RULES = 8
_MOST_OVERRIDES = 10_000
_LONGEST_IDENTITY = 256
_UNLIMITED = "unlimited"

Rule = Mapping[str, Limit]
Overrides = dict[str, dict[str, dict[str, Limit | None]]]


def load_book(name: str, text: str) -> RuleBook:
    """The rules of a text. Raises Invalid with ``name:line: reason``, line and reason in its details as well.

    Args:
        name: what the text is called in errors: the file's path.
    """
    if len(text.encode(errors="surrogatepass")) > LARGEST_BYTES:
        raise too_large(name)
    return _Loader(Source(name, text)).book()


def too_large(name: str) -> Exception:
    """The refusal of a text of more than 256 KiB."""
    return bad_rules(name, 1, f"the file is larger than {LARGEST_BYTES} bytes")


class _Loader:
    def __init__(self, source: Source) -> None:
        self._source = source
        # By node: a rule that several classes share by a YAML alias is one rule.
        self._by_node: dict[int, Draft] = {}
        self._by_name: dict[str, tuple[Draft, int]] = {}

    def book(self) -> RuleBook:
        source = self._source
        fields = source.fields(
            source.root(), "the file", required=("version", "classes"), optional=("exact_up_to", "overrides")
        )
        source.count(fields["version"], "version", least=_VERSION, most=_VERSION)
        exact_up_to = _EXACT_UP_TO
        if "exact_up_to" in fields:
            exact_up_to = source.count(fields["exact_up_to"], "exact_up_to", least=0, most=10_000)
        drafts = self._classes(fields["classes"], DraftReader(source, exact_up_to))
        overrides = self._overrides(fields["overrides"]) if "overrides" in fields else {}
        generation = int.from_bytes(blake2b(source.text.encode(), digest_size=8).digest(), "big") >> 1
        return RuleBook(
            classes={name: tuple(draft.rule for draft in rules) for name, rules in drafts.items()},
            overrides=overrides,
            source=source.text,
            generation=generation,
        )

    # -- classes -------------------------------------------------------------------------------------------------

    def _classes(self, node: yaml.Node, reader: DraftReader) -> dict[str, list[Draft]]:
        own: dict[str, list[yaml.Node]] = {}
        borrowed: dict[str, yaml.Node] = {}
        entries = self._source.mapping(node, "classes")
        if len(entries) > _MOST_CLASSES:
            raise self._source.wrong(node, f"there are more than {_MOST_CLASSES} classes")
        for name, (key, value) in entries.items():
            if not _CLASS.fullmatch(name) or len(name) > _LONGEST_CLASS:
                raise self._source.wrong(
                    key, f"{shown(name)} is no name of a class: lower-case words with dots between them"
                )
            if isinstance(value, yaml.ScalarNode):
                borrowed[name] = value
            else:
                own[name] = self._rule_nodes(name, value, reader)
        if not own:
            raise self._source.wrong(node, "classes must name at least one class with rules")
        classes = {name: self._class(name, nodes) for name, nodes in own.items()}
        for name, value in borrowed.items():
            other = self._source.text_of(value, f"class {name}")
            if other not in own:
                raise self._source.wrong(
                    value, f"class {name} refers to {shown(other)}, which is no class with rules of its own"
                )
            classes[name] = classes[other]
        return classes

    def _rule_nodes(self, name: str, node: yaml.Node, reader: DraftReader) -> list[yaml.Node]:
        """The items of a class; those that state a rule are read, those that name one wait until all are."""
        nodes = self._source.items(node, f"class {name}")
        if len(nodes) > _MOST_RULES:
            raise self._source.wrong(nodes[_MOST_RULES], f"class {name} has more than {_MOST_RULES} rules")
        for one in nodes:
            if not isinstance(one, yaml.ScalarNode) and id(one) not in self._by_node:
                self._remember(one, reader.read(one))
        return nodes

    def _remember(self, node: yaml.Node, draft: Draft) -> None:
        if draft.name in self._by_name:
            raise self._source.wrong(node, f"rule {draft.name} is already in line {self._by_name[draft.name][1]}")
        self._by_name[draft.name] = draft, node.start_mark.line + 1
        self._by_node[id(node)] = draft

    def _class(self, name: str, nodes: list[yaml.Node]) -> list[Draft]:
        drafts = [self._by_node.get(id(node)) or self._named(node, f"class {name}") for node in nodes]
        for index, draft in enumerate(drafts):
            if draft in drafts[:index]:
                raise self._source.wrong(nodes[index], f"class {name} has rule {draft.name} twice")
        return drafts

    def _named(self, node: yaml.Node, what: str) -> Draft:
        name = self._source.text_of(node, "the name of a rule")
        if name not in self._by_name:
            raise self._source.wrong(node, f"{what} names rule {shown(name)}, which the file does not have")
        return self._by_name[name][0]

    # -- overrides -----------------------------------------------------------------------------------------------

    def _overrides(self, node: yaml.Node) -> Overrides:
        """Read before any limit is made, as an override may take a rule's exact log from it."""
        source = self._source
        counts: dict[tuple[str, str, str], tuple[Draft, int | None]] = {}
        for dimension, (key, callers) in source.mapping(node, "overrides").items():
            if dimension not in OVERRIDABLE:
                raise source.wrong(key, f"overrides are for {', '.join(OVERRIDABLE)}; not for {shown(dimension)}")
            for identity, (key_of_caller, rules) in source.mapping(callers, f"overrides of {dimension}").items():
                if len(identity) > _LONGEST_IDENTITY or not identity.isprintable():
                    raise source.wrong(key_of_caller, f"{shown(identity)} is no id of a {dimension}")
                what = f"overrides of {dimension} {shown(identity)}"
                for name, (key_of_rule, value) in source.mapping(rules, what).items():
                    draft = self._named(key_of_rule, what)
                    counts[dimension, identity, name] = draft, self._count(draft, value)
                if len(counts) > _MOST_OVERRIDES:
                    # Callers may share theirs by aliases, so the text says little of how many there are.
                    raise source.wrong(key_of_caller, f"there are more than {_MOST_OVERRIDES} overrides")
        made: Overrides = {}
        for (dimension, identity, name), (draft, count) in counts.items():
            limit = None if count is None else draft.limit(count)
            made.setdefault(dimension, {}).setdefault(identity, {})[name] = limit
        return made

    def _count(self, draft: Draft, node: yaml.Node) -> int | None:
        if isinstance(node, yaml.ScalarNode) and node.value == _UNLIMITED:
            return None
        count = self._source.count(node, f"override of {draft.name}", least=1, most=draft.most)
        draft.overrides.append(count)
        return count
