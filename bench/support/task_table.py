"""What several measurements of task systems come to: medians with lowest and highest, and the best of each system."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_OURS = "agentmesh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All rounds of one system in one configuration. `synced`: what it accepts is on the disk."""

    system: str
    configuration: str
    synced: bool
    figures: Sequence[dict[str, Any]]

    def values(self, *path: str) -> list[float]:
        """A figure of all rounds; empty when the system has no such figure."""
        found = []
        for one in self.figures:
            value: Any = one
            for name in path:
                value = value.get(name) if value is not None else None
            if value is not None:
                found.append(float(value))
        return found

    def middle(self, *path: str) -> float:
        return median(self.values(*path))


def rows_of(records: Iterable[dict[str, Any]]) -> list[Row]:
    """Saved measurements, by system and configuration, the fastest first."""
    found: dict[tuple[str, str, bool], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[record["system"], record["configuration"], record["synced"]].append(record["figures"])
    rows = [
        Row(system=system, configuration=told, synced=synced, figures=rounds)
        for (system, told, synced), rounds in found.items()
    ]
    return sorted(rows, key=lambda row: -row.middle("per_second"))


def best(rows: Iterable[Row]) -> list[Row]:
    """The fastest configuration of each system, of those that sync what they accept and of those that do not."""
    chosen: dict[tuple[str, bool], Row] = {}
    for row in rows:
        chosen.setdefault((row.system, row.synced), row)
    return list(chosen.values())


def tables(rows: Sequence[Row]) -> str:
    """Markdown: the best of each system, what CPU they used, everything that was tried, and ours beside the best."""
    chosen = best(rows)
    return "\n\n".join([_rates(chosen), _costs(chosen), _tried(rows), *_verdicts(chosen)])


def _rates(rows: Iterable[Row]) -> str:
    names = ["accepted is on disk", "tasks/s, submit → committed result", "of a backlog", "accepts/s", "in batches"]
    names += ["half load", "accept → start, p50 / p95 / p99 ms", "call → start, ms", "lost"]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [
            "yes" if row.synced else "no",
            _spread(row, "per_second"),
            _spread(row, "drained_per_second"),
            _spread(row, "accepts_per_second"),
            _spread(row, "batched_accepts_per_second"),
            _spread(row, "half_load"),
            _waits(row, "accept_to_start_ms"),
            _waits(row, "call_to_start_ms"),
            f"{sum(row.values('lost')):,.0f} of {sum(row.values('accepted')):,.0f}",
        ]
        lines.append(f"| {row.system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _costs(rows: Sequence[Row]) -> str:
    names = ["client", "tasks", "worker", "postgres", "rabbitmq"]
    lines = [
        f"| CPU ms a task | accepted is on disk | {' | '.join(names)} | all |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in rows:
        cells = [f"{row.middle('cpu', name):.2f}" if row.values("cpu", name) else "–" for name in names]
        synced = "yes" if row.synced else "no"
        lines.append(f"| {row.system} | {synced} | {' | '.join(cells)} | {_spread(row, 'cpu_whole', digits=2)} |")
    return "\n".join(lines)


def _tried(rows: Iterable[Row]) -> str:
    lines = ["| system | configuration | tasks/s | CPU ms a task | rounds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.system} | {row.configuration} | {_spread(row, 'per_second')} "
        f"| {row.middle('cpu_whole'):.2f} | {len(row.figures)} |"
        for row in rows
    ]
    return "\n".join(lines)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """Ours beside the best peer, which need not be the same one for speed and for cost."""
    ours = [row for row in rows if row.system == _OURS]
    peers = [row for row in rows if row.system != _OURS]
    as_durable = [row for row in peers if row.synced]
    sets = [("the best peer", peers), ("the best peer that syncs what it accepts", as_durable)]
    return [_verdict(name, ours[0], others) for name, others in sets if ours and others]


def _verdict(name: str, ours: Row, peers: Sequence[Row]) -> str:
    fastest = max(peers, key=lambda row: row.middle("per_second"))
    thriftiest = min(peers, key=lambda row: row.middle("cpu_whole"))
    speed = ours.middle("per_second") / fastest.middle("per_second")
    cost = ours.middle("cpu_whole") / thriftiest.middle("cpu_whole")
    return (
        f"Beside {name}: {speed:.2f} × the tasks/s of {fastest.system} (wanted 3), "
        f"{cost:.2f} × the CPU of {thriftiest.system} (wanted ≤ 0.33)."
    )


def _spread(row: Row, *path: str, digits: int = 0) -> str:
    values = row.values(*path)
    if not values:
        return "–"
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({low}–{high})"


def _waits(row: Row, name: str) -> str:
    return " / ".join(f"{row.middle(name, part):.1f}" for part in ("p50", "p95", "p99"))
