"""Puts the frames of each subject in order and drops those that came twice. Pure; time is an argument."""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.gateway.live.frames import Frame

# A frame whose predecessor is missing waits this long for it: the broker redelivers within milliseconds, and what was
# published while no queue of ours stood never comes.
HOLD_SECONDS = 2.0
_MOST_SUBJECTS = 10_000


@dataclass(slots=True)
class _Subject:
    next_sequence: int = 1
    held: dict[int, Frame] = field(default_factory=dict)
    held_since: float = 0.0


class Order:
    """Remembers the last ten thousand subjects. `gaps` counts how often one went on without what was missing."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[str, _Subject] = OrderedDict()
        self.gaps = 0

    def accept(self, frame: Frame, now: float) -> list[Frame]:
        """What may be sent now that `frame` is here, in order; `now` is monotonic seconds."""
        if not frame.sequence or not frame.subject:
            return [frame]
        subject = self._subjects.setdefault(frame.subject, _Subject())
        self._subjects.move_to_end(frame.subject)
        if len(self._subjects) > _MOST_SUBJECTS:
            self._subjects.popitem(last=False)
        if frame.sequence < subject.next_sequence:
            return []
        if not subject.held:
            subject.held_since = now
        subject.held[frame.sequence] = frame
        return _ready(subject)

    def overdue(self, now: float) -> list[Frame]:
        """What has waited long enough for predecessors that do not come."""
        released: list[Frame] = []
        for subject in self._subjects.values():
            if subject.held and now - subject.held_since >= HOLD_SECONDS:
                self.gaps += 1
                subject.next_sequence = min(subject.held)
                released += _ready(subject)
                subject.held_since = now
        return released


def _ready(subject: _Subject) -> list[Frame]:
    ready = []
    while (frame := subject.held.pop(subject.next_sequence, None)) is not None:
        ready.append(frame)
        subject.next_sequence += 1
    return ready
