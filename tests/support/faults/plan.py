"""What goes wrong when: drawn from a seed, so that a run can be had again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random


class Harm(StrEnum):
    """`KILL`: ended at once. `STOP`: frozen (SIGSTOP) for a while. `WIPE`: killed, and its data gone.
    `CUT`, `HOLE`: its connections reset, or swallowed, for a while.
    """

    KILL = "kill"
    STOP = "stop"
    WIPE = "wipe"
    CUT = "cut"
    HOLE = "hole"


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
SERVICES = ("gateway", "tasks", "tasks-worker-1", "effects-1", "effects-2")
# A lease is 9 s: a worker that is stopped for longer must find itself fenced when it wakes.
_STOP_SECONDS = {"effects-1": (11.0, 14.0), "effects-2": (1.0, 14.0)}
_SHORT_STOP_SECONDS = (0.5, 4.0)
_CUT_SECONDS = (0.3, 3.0)


def draw(seed: int, seconds: float, *, every_seconds: float = 2.5) -> list[Fault]:
    """Faults over that time, in order. The same seed gives the same faults."""
    random = Random(seed)
    choices = list(_choices())
    # Every kind of fault comes before any comes twice.
    random.shuffle(choices)
    faults, at = [], 1.0
    index = 0
    while at < seconds:
        target, harm = choices[index % len(choices)]
        index += 1
        faults.append(Fault(at_seconds=at, target=target, harm=harm, seconds=_lasting(random, target, harm)))
        at += random.uniform(0.3, 2 * every_seconds - 0.3)
    return faults


def _choices() -> Iterable[tuple[str, Harm]]:
    for service in SERVICES:
        yield service, Harm.KILL
        yield service, Harm.STOP
    for store in STORES:
        yield store, Harm.KILL
        yield store, Harm.STOP
        yield store, Harm.CUT
        yield store, Harm.HOLE
    yield "rabbitmq", Harm.WIPE


def _lasting(random: Random, target: str, harm: Harm) -> float:
    if harm is Harm.STOP:
        return random.uniform(*_STOP_SECONDS.get(target, _SHORT_STOP_SECONDS))
    if harm in {Harm.CUT, Harm.HOLE}:
        return random.uniform(*_CUT_SECONDS)
    return 0.0
