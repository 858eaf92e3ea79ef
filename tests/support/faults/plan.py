"""What goes wrong when: drawn from a seed, so that a run can be had again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Harm(StrEnum):
    """`KILL`: ended at once. `STOP`: stopped (SIGSTOP) for a moment; `FREEZE`: for longer than a lease. `WIPE`: killed,
    and its data gone. `CUT`, `HOLE`: its connections reset, or swallowed, for a moment; `VANISH`: swallowed for longer
    than a lease.
    """

    KILL = "kill"
    STOP = "stop"
    FREEZE = "freeze"
    WIPE = "wipe"
    CUT = "cut"
    HOLE = "hole"
    VANISH = "vanish"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One harm to one target, `at_seconds` from the beginning; it lasts `seconds`, 0 where nothing lasts."""

    at_seconds: float
    target: str
    harm: Harm
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at_seconds:6.1f} s: {self.harm} {self.target}{lasting}"


STORES = ("postgres", "rabbitmq", "redis")
# The relay of the outbox lives in the tasks service.
SERVICES = ("gateway", "tasks", "tasks-worker-1")
INSIDE, OUTSIDE = ("effects-1", "effects-2"), ("outside-1", "outside-2")
# What the workers reach the mesh through: the address of the tasks service, and that of the gateway.
DOORS = ("inside", "outside")
_MOMENT = {Harm.STOP: (0.5, 4.0), Harm.CUT: (0.3, 3.0), Harm.HOLE: (0.3, 3.0)}
# A lease is 9 s: a worker that is stopped for longer must find itself fenced when it wakes.
_LONG = (11.0, 14.0)


def draw(seed: int, seconds: float, *, every_seconds: float, everything: bool) -> list[Fault]:
    """Faults over that time, in order. The same seed gives the same faults.

    Args:
        everything: also what takes long, to every target.
    """
    random = Random(seed)
    choices = list(_long_choices() if everything else _choices())
    # Every kind of fault comes before any comes twice.
    random.shuffle(choices)
    faults, at = [], 1.0
    index = 0
    while at < seconds:
        target, harm = choices[index % len(choices)]
        index += 1
        faults.append(Fault(at_seconds=at, target=target, harm=harm, seconds=_lasting(random, harm)))
        at += random.uniform(0.3, 2 * every_seconds - 0.3)
    return faults


def _choices() -> Iterable[tuple[str, Harm]]:
    for service in (*SERVICES, *INSIDE, *OUTSIDE, *STORES):
        yield service, Harm.KILL
    for service in (*SERVICES, *STORES):
        yield service, Harm.STOP
    for door in (*DOORS, *STORES):
        yield door, Harm.CUT
        yield door, Harm.HOLE
    yield "effects-1", Harm.FREEZE
    yield "outside-1", Harm.FREEZE
    yield "rabbitmq", Harm.WIPE


def _long_choices() -> Iterable[tuple[str, Harm]]:
    yield from _choices()
    for service in (*SERVICES, *INSIDE, *OUTSIDE, *STORES):
        yield service, Harm.FREEZE
    for door in (*DOORS, *STORES):
        yield door, Harm.VANISH


def _lasting(random: Random, harm: Harm) -> float:
    if harm in {Harm.FREEZE, Harm.VANISH}:
        return random.uniform(*_LONG)
    return random.uniform(*_MOMENT[harm]) if harm in _MOMENT else 0.0
