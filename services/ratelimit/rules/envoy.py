"""From the files of an envoyproxy/ratelimit configuration to the book of descriptors, with the same refusals.

Beyond its format a `rate_limit` may name an `algorithm` of ours and a window in `window_seconds`. Knows no folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import yaml
from yaml.constructor import SafeConstructor

from chassis.errors import Invalid
from services.ratelimit.model.descriptors import UNIT_NAMES, UNITS, DescriptorBook, Node, Rule, Unit
from services.ratelimit.model.limits import MAX_COUNT, SECOND_US, Algorithm, Limit, limit_of
from services.ratelimit.rules.nodes import Source, shown

_ROOT = ("domain", "descriptors")
_DESCRIPTOR = (
    *("key", "value", "rate_limit", "descriptors", "shadow_mode", "quota_mode", "detailed_metric", "value_to_metric"),
    *("share_threshold", "metadata"),
)
_LIMIT = ("requests_per_unit", "unit", "unlimited", "name", "replaces", "algorithm", "window_seconds")
_REPLACES = ("name",)
_KNOWN = {*_ROOT, *_DESCRIPTOR, *_LIMIT, *_REPLACES}

_MERGE_TAG = "tag:yaml.org,2002:merge"
_NULL_TAG = "tag:yaml.org,2002:null"
_TEXT_TAG = "tag:yaml.org,2002:str"
_BOOL_TAG = "tag:yaml.org,2002:bool"

_MOST_REQUESTS = 2**32 - 1
_LONGEST_SECONDS = 366 * 86400
# Of a sliding window; above it the log would be longer than it is worth.
_EXACT_UP_TO = 1000
# By YAML aliases a small file can name more descriptors than there is memory for.
_MOST_DESCRIPTORS = 200_000

_ALGORITHMS = (Algorithm.FIXED_WINDOW, Algorithm.SLIDING_WINDOW, Algorithm.TOKEN_BUCKET)


def load_descriptors(
    files: Sequence[tuple[str, str]], *, merge_domains: bool = False, counts_denied: bool = True
) -> DescriptorBook:
    """The descriptors of all files, each given as name and text. Raises Invalid with ``file:line: reason``.

    Args:
        merge_domains: whether several files may speak of one domain.
        counts_denied: whether requests that are denied count in fixed windows, as they do in envoyproxy/ratelimit.
    """
    loader = _Loader(counts_denied=counts_denied)
    for name, text in files:
        source = Source(name, text)
        try:
            loader.read(source, merge=merge_domains)
        except RecursionError as error:
            raise source.wrong(None, "an alias contains itself") from error
    return DescriptorBook(domains=loader.domains)


class _Loader:
    def __init__(self, *, counts_denied: bool) -> None:
        self.domains: dict[str, Node] = {}
        self._counts_denied = counts_denied
        self._found = 0
        # For each domain which names replace which others, to find those that replace each other.
        self._replacing: dict[str, dict[str, set[str]]] = {}
        self._source = Source("", "")

    def read(self, source: Source, *, merge: bool) -> None:
        self._source = source
        root = source.root()
        fields = self._fields(root, "the file", _ROOT)
        domain = self._text(fields, "domain")
        if not domain:
            raise source.wrong(fields.get("domain", root), "the domain is empty")
        if domain in self.domains and not merge:
            raise source.wrong(fields["domain"], f"the domain {shown(domain)} is configured already")
        node = self.domains.setdefault(domain, Node())
        self._descriptors(fields, node, (domain,))
        self._refuse_circles(domain, fields["domain"])

    def _descriptors(self, fields: Mapping[str, yaml.Node], parent: Node, path: tuple[str, ...]) -> None:
        for node in self._items(fields.get("descriptors"), "descriptors"):
            self._found += 1
            if self._found > _MOST_DESCRIPTORS:
                raise self._source.wrong(node, f"there are more than {_MOST_DESCRIPTORS} descriptors")
            self._descriptor(node, parent, path)

    def _descriptor(self, node: yaml.Node, parent: Node, path: tuple[str, ...]) -> None:
        source = self._source
        fields = self._fields(node, "a descriptor", _DESCRIPTOR)
        key, value = self._text(fields, "key"), self._text(fields, "value")
        if not key:
            raise source.wrong(fields.get("key", node), "a descriptor has an empty key")
        if (key, value) in parent.children:
            raise source.wrong(node, f"the descriptor {shown(_joined(key, value))} stands here twice")
        here = (*path, _joined(key, value))
        child = Node(
            key=key,
            value=value,
            value_to_metric=self._truth(fields, "value_to_metric"),
            share_threshold=self._truth(fields, "share_threshold"),
        )
        if child.share_threshold and "*" not in value:
            raise source.wrong(fields["share_threshold"], "share_threshold needs a value with a `*` in it")
        if not self._is_absent(fields.get("rate_limit")):
            child.rule = self._rule(fields, here)
        self._descriptors(fields, child, here)
        parent.add(child)

    def _rule(self, descriptor: Mapping[str, yaml.Node], path: tuple[str, ...]) -> Rule:
        fields = self._fields(descriptor["rate_limit"], "rate_limit", _LIMIT)
        unlimited = self._truth(fields, "unlimited")
        unit = self._unit(fields, descriptor["rate_limit"], unlimited=unlimited)
        requests = self._count(fields, "requests_per_unit", _MOST_REQUESTS)
        name = self._text(fields, "name")
        replaces = tuple(self._replaces(fields, name))
        self._replacing.setdefault(path[0], {}).setdefault(name, set()).update(replaces if name else ())
        return Rule(
            path=".".join(path),
            limit=None if unlimited else self._limit(fields, requests, unit),
            requests_per_unit=requests,
            unit=unit.number,
            unlimited=unlimited,
            name=name,
            replaces=replaces,
            shadow=self._truth(descriptor, "shadow_mode"),
            quota=self._truth(descriptor, "quota_mode"),
            detailed=self._truth(descriptor, "detailed_metric"),
            metadata=self._metadata(descriptor.get("metadata")),
        )

    def _unit(self, fields: Mapping[str, yaml.Node], limit: yaml.Node, *, unlimited: bool) -> Unit:
        named = self._text(fields, "unit")
        unit = UNITS.get(named.upper())
        seconds = self._count(fields, "window_seconds", _LONGEST_SECONDS)
        if unlimited:
            if unit is not None or seconds:
                raise self._source.wrong(fields.get("unit", limit), "what is unlimited has no unit")
            return Unit(0, 0)
        if seconds and not named:
            number = next((unit.number for unit in UNITS.values() if unit.seconds == seconds), 0)
            return Unit(number, seconds)
        if unit is None:
            known = ", ".join(UNIT_NAMES.values()).lower()
            raise self._source.wrong(fields.get("unit", limit), f"unit must be one of {known}; not {shown(named)}")
        return Unit(unit.number, seconds) if seconds else unit

    def _limit(self, fields: Mapping[str, yaml.Node], requests: int, unit: Unit) -> Limit:
        algorithm = Algorithm.FIXED_WINDOW
        if not self._is_absent(fields.get("algorithm")):
            named = self._text(fields, "algorithm")
            if named not in _ALGORITHMS:
                known = ", ".join(_ALGORITHMS)
                raise self._source.wrong(fields["algorithm"], f"algorithm must be one of {known}; not {shown(named)}")
            algorithm = Algorithm(named)
        if algorithm is Algorithm.TOKEN_BUCKET and requests * unit.seconds * SECOND_US > MAX_COUNT:
            raise self._source.wrong(fields["algorithm"], "so many tokens for so long a time cannot be counted exactly")
        return envoy_limit(requests, unit.seconds, algorithm, counts_denied=self._counts_denied)

    def _replaces(self, fields: Mapping[str, yaml.Node], own: str) -> Iterator[str]:
        for node in self._items(fields.get("replaces"), "replaces"):
            name = self._text(self._fields(node, "replaces", _REPLACES), "name")
            if not name:
                raise self._source.wrong(node, "an entry of replaces is empty")
            if name == own:
                raise self._source.wrong(node, f"the rule {shown(own)} replaces itself")
            yield name

    def _refuse_circles(self, domain: str, node: yaml.Node) -> None:
        """Rules that replace each other would leave a request that matches them without any limit."""
        replacing = self._replacing.get(domain, {})
        settled: set[str] = set()
        for start in replacing:
            way, ahead = [start], [iter(replacing[start])]
            while ahead and start not in settled:
                name = next(ahead[-1], None)
                if name is None:
                    ahead.pop()
                    settled.add(way.pop())
                elif name in way:
                    circle = " → ".join((*way[way.index(name) :], name))
                    raise self._source.wrong(node, f"rules replace each other: {circle}")
                elif name in replacing and name not in settled:
                    way.append(name)
                    ahead.append(iter(replacing[name]))

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _fields(self, node: yaml.Node, what: str, here: Sequence[str]) -> dict[str, yaml.Node]:
        """A mapping's values by name; names that belong elsewhere are passed over, as envoyproxy/ratelimit does."""
        found = {}
        for key, value in self._pairs(node, what):
            if key.tag != _TEXT_TAG:
                raise self._source.wrong(key, f"a key must be a text, not {shown(str(key.value))}")
            if key.value not in _KNOWN:
                raise self._source.wrong(key, f"unknown key {shown(key.value)}; {what} has {', '.join(here)}")
            found[key.value] = value
        return {name: value for name, value in found.items() if name in here}

    def _pairs(self, node: yaml.Node, what: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """What a mapping holds: first what it takes over with ``<<``, then its own."""
        if not isinstance(node, yaml.MappingNode):
            raise self._source.wrong(node, f"{what} must be a mapping")
        taken = [value for key, value in node.value if key.tag == _MERGE_TAG]
        for value in taken:
            others = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for other in reversed(others):
                yield from self._pairs(other, what)
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                continue
            if str(key.value) in seen:
                raise self._source.wrong(key, f"{shown(str(key.value))} stands here twice")
            seen.add(str(key.value))
            yield key, value

    def _items(self, node: yaml.Node | None, what: str) -> Iterator[yaml.Node]:
        if self._is_absent(node):
            return
        if not isinstance(node, yaml.SequenceNode):
            raise self._source.wrong(node, f"{what} must be a list")
        for item in node.value:
            if not isinstance(item, yaml.MappingNode):
                raise self._source.wrong(item, f"{what} must be a list of mappings, not of {shown(str(item.value))}")
            yield item

    @staticmethod
    def _is_absent(node: yaml.Node | None) -> bool:
        return node is None or node.tag == _NULL_TAG

    def _text(self, fields: Mapping[str, yaml.Node], name: str) -> str:
        """A text; empty when it is not there."""
        node = fields.get(name)
        if self._is_absent(node) or (isinstance(node, yaml.ScalarNode) and not node.value):
            return ""
        return self._source.text_of(node, name)  # type: ignore[arg-type]  # it is not absent

    def _count(self, fields: Mapping[str, yaml.Node], name: str, most: int) -> int:
        """A whole number; 0 when it is not there."""
        node = fields.get(name)
        return 0 if node is None or self._is_absent(node) else self._source.count(node, name, least=0, most=most)

    def _truth(self, fields: Mapping[str, yaml.Node], name: str) -> bool:
        node = fields.get(name)
        if node is None or self._is_absent(node):
            return False
        if node.tag != _BOOL_TAG:
            raise self._source.wrong(node, f"{name} must be true or false")
        return SafeConstructor.bool_values[node.value.lower()]

    def _metadata(self, node: yaml.Node | None) -> Mapping[str, object]:
        if node is None or self._is_absent(node):
            return {}
        try:
            found = SafeConstructor().construct_document(node)
        except yaml.YAMLError as error:
            raise self._source.wrong(node, f"metadata cannot be read: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise self._source.wrong(node, "metadata must be a mapping with texts for keys")
        return found


def envoy_limit(requests: int, seconds: int, algorithm: Algorithm, *, counts_denied: bool) -> Limit:
    """How so many requests in so many seconds are counted. Raises Invalid when they cannot be.

    None are counted as one, in a window that lets nothing pass unless it counts what is denied.
    """
    found = limit_of(
        rule="envoy",
        algorithm=algorithm if requests else Algorithm.FIXED_WINDOW,
        per=(),
        limit=max(1, requests),
        window_us=seconds * SECOND_US,
        exact=requests <= _EXACT_UP_TO,
        counts_denied=counts_denied and (algorithm is Algorithm.FIXED_WINDOW or not requests),
    )
    return found if requests or found.counts_denied else replace(found, capacity=0)


def override(requests: int, unit: int, *, counts_denied: bool) -> Rule:
    """The rule that a request brings along. Raises Invalid for an unknown unit."""
    if unit not in UNIT_NAMES:
        raise Invalid("the limit of a descriptor needs a unit", details={"field": "descriptors.limit.unit"})
    seconds = UNITS[UNIT_NAMES[unit]].seconds
    limit = envoy_limit(requests, seconds, Algorithm.FIXED_WINDOW, counts_denied=counts_denied)
    return Rule(path="", limit=limit, requests_per_unit=requests, unit=unit)


def _joined(key: str, value: str) -> str:
    return f"{key}_{value}" if value else key
