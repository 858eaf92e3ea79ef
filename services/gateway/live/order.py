"""Puts the frames of each subject in order and drops those that came twice. Pure; time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.gateway.live.frames import Frame

# A frame whose predecessor is missing waits this long for it: the broker redelivers within milliseconds. What was
# published while no queue of ours stood never comes; it is read from the history then.
HOLD_SECONDS = 0.25
_MOST_SUBJECTS = 50_000
_MOST_ENDED = 20_000


@dataclass(slots=True)
class _Subject:
    owner: str
    next_sequence: int = 1
    held: dict[int, Frame] = field(default_factory=dict)
    held_since: float = 0.0
    told: set[str] = field(default_factory=set)
    ended: bool = False


class Order:
    """Remembers the last fifty thousand subjects of which more is to come, and the last twenty thousand that ended."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()
        # Those that ended and the sequence after their end: an operator may give a task a second life.
        self._ended: OrderedDict[str, int] = OrderedDict()
        self._waiting: set[str] = set()

    def accept(self, frame: Frame, now: float) -> list[Frame]:
        """What may be sent now that `frame` is here, in order; `now` is monotonic seconds."""
        if not frame.sequence or not frame.subject:
            return [frame]
        subject = self._subject(frame.subject, frame.owner)
        if frame.sequence < subject.next_sequence:
            self._settle(frame.subject)
            return []
        if not subject.held:
            subject.held_since = now
        subject.held[frame.sequence] = frame
        return self._ready(frame.subject)

    def overdue(self, now: float) -> list[str]:
        """Subjects that have waited long enough for what does not come."""
        return [name for name in self._waiting if now - self._subjects[name].held_since >= HOLD_SECONDS]

    def unfinished(self) -> list[str]:
        """Subjects of which more is to come."""
        return list(self._subjects)

    def knows(self, name: str) -> bool:
        """Whether something was told of it."""
        return name in self._subjects or name in self._ended

    def owner_of(self, name: str) -> str:
        """Whose subject it is; empty for one that is nobody's or forgotten."""
        subject = self._subjects.get(name)
        return subject.owner if subject else ""

    def told_up_to(self, name: str) -> int:
        """The sequence of the last frame that was told of a subject; 0 before the first."""
        subject = self._subjects.get(name)
        return subject.next_sequence - 1 if subject else self._ended.get(name, 1) - 1

    def first_held(self, name: str) -> int:
        """The sequence of the first frame of a subject that waits for another; 0 where none does."""
        subject = self._subjects.get(name)
        return min(subject.held, default=0) if subject else 0

    def catch_up(self, name: str, history: list[Frame]) -> list[Frame]:
        """What of a subject's history was not told yet, then what waited behind it.

        Frames with a key are told apart by it: their history is counted anew and may number them otherwise. Sequences
        have no gaps, so whoever knows how much has happened knows which number comes next.
        """
        if not history:
            return self._ready(name) if name in self._subjects else []
        subject = self._subject(name, history[0].owner)
        missing = []
        for frame in history:
            if frame.key not in subject.told if frame.key else frame.sequence >= subject.next_sequence:
                missing.append(frame)
                _tell(subject, frame)
        subject.held = {number: frame for number, frame in subject.held.items() if number >= subject.next_sequence}
        return missing + self._ready(name)

    def go_on(self, name: str) -> list[Frame]:
        """What waited, without what it waited for."""
        subject = self._subjects.get(name)
        if subject is None:
            return []
        if subject.held:
            subject.next_sequence = min(subject.held)
        return self._ready(name)

    def forget(self, owner: str) -> None:
        """Drops what is known of a user's subjects: nobody is there who was told any of it."""
        for name in [name for name, subject in self._subjects.items() if subject.owner == owner]:
            self._drop(name)

    def _subject(self, name: str, owner: str) -> _Subject:
        subject = self._subjects.get(name)
        if subject is None:
            subject = _Subject(owner=owner, next_sequence=self._ended.pop(name, 1))
            # An ended subject that is heard of again was told up to its end, and its keys with it.
            subject.ended = subject.next_sequence > 1
            self._subjects[name] = subject
        self._subjects.move_to_end(name)
        if len(self._subjects) > _MOST_SUBJECTS:
            self._drop(next(iter(self._subjects)))
        return subject

    def _ready(self, name: str) -> list[Frame]:
        subject = self._subjects[name]
        ready = []
        while (frame := subject.held.pop(subject.next_sequence, None)) is not None:
            ready.append(frame)
            _tell(subject, frame)
        self._settle(name)
        return ready

    def _settle(self, name: str) -> None:
        """Notes whether a subject waits, or has ended."""
        subject = self._subjects[name]
        if subject.held:
            self._waiting.add(name)
            return
        self._waiting.discard(name)
        if subject.ended:
            del self._subjects[name]
            self._ended[name] = subject.next_sequence
            if len(self._ended) > _MOST_ENDED:
                self._ended.popitem(last=False)

    def _drop(self, name: str) -> None:
        del self._subjects[name]
        self._waiting.discard(name)


def _tell(subject: _Subject, frame: Frame) -> None:
    subject.next_sequence += 1
    if frame.key:
        subject.told.add(frame.key)
    subject.ended = frame.last
