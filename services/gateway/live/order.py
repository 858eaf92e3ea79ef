"""Puts the frames of each subject in order and drops those that came twice. Pure; time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.gateway.live.frames import Frame

# A frame whose predecessor is missing waits this long for it: the broker redelivers within milliseconds. What was
# published while no queue of ours stood never comes; it is read from the history then.
HOLD_SECONDS = 2.0
_MOST_SUBJECTS = 10_000


@dataclass(slots=True)
class _Subject:
    next_sequence: int = 1
    held: dict[int, Frame] = field(default_factory=dict)
    held_since: float = 0.0
    told: set[str] = field(default_factory=set)
    ended: bool = False
    owner: str = ""


class Order:
    """Remembers the last ten thousand subjects."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()

    def accept(self, frame: Frame, now: float) -> list[Frame]:
        """What may be sent now that `frame` is here, in order; `now` is monotonic seconds."""
        if not frame.sequence or not frame.subject:
            return [frame]
        subject = self._subjects.setdefault(frame.subject, _Subject(owner=frame.owner))
        self._subjects.move_to_end(frame.subject)
        if len(self._subjects) > _MOST_SUBJECTS:
            self._subjects.popitem(last=False)
        if frame.sequence < subject.next_sequence:
            return []
        if not subject.held:
            subject.held_since = now
        subject.held[frame.sequence] = frame
        return _ready(subject)

    def overdue(self, now: float) -> list[str]:
        """Subjects that have waited long enough for what does not come."""
        return [name for name, each in self._subjects.items() if each.held and now - each.held_since >= HOLD_SECONDS]

    def unfinished(self) -> list[str]:
        """Subjects of which more is to come."""
        return [name for name, each in self._subjects.items() if each.told and not each.ended]

    def owner_of(self, name: str) -> str:
        """Whose subject it is; empty for one that is nobody's or forgotten."""
        return self._subjects.get(name, _Subject()).owner

    def catch_up(self, name: str, history: list[Frame]) -> list[Frame]:
        """What of a subject's whole history was not told yet, then what waited behind it.

        Sequences have no gaps, so whoever knows how much has happened knows which number comes next.
        """
        subject = self._subjects.get(name, _Subject())
        missing = [frame for frame in history if frame.key not in subject.told]
        for frame in missing:
            _tell(subject, frame)
        subject.held = {number: frame for number, frame in subject.held.items() if number >= subject.next_sequence}
        return missing + _ready(subject)

    def go_on(self, name: str) -> list[Frame]:
        """What waited, without what it waited for."""
        subject = self._subjects.get(name, _Subject())
        if subject.held:
            subject.next_sequence = min(subject.held)
        return _ready(subject)


def _ready(subject: _Subject) -> list[Frame]:
    ready = []
    while (frame := subject.held.pop(subject.next_sequence, None)) is not None:
        ready.append(frame)
        _tell(subject, frame)
    return ready


def _tell(subject: _Subject, frame: Frame) -> None:
    subject.next_sequence += 1
    subject.told.add(frame.key)
    subject.ended = subject.ended or frame.last
