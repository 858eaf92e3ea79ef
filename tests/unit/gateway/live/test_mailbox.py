"""A mailbox keeps order, gives up what may be missed, and ends rather than lose what may not."""

import asyncio

from services.gateway.live.frames import Frame
from services.gateway.live.mailbox import GOING_AWAY, TOO_SLOW, Mailbox


def state(number: int) -> Frame:
    return Frame(text=f"s{number}")


def figures(number: int) -> Frame:
    return Frame(text=f"m{number}", passing=True)


async def contents(mailbox: Mailbox) -> list[str]:
    return [(await mailbox.take()).text for _ in range(len(mailbox._frames))]


async def test_frames_come_out_as_they_went_in():
    """First in, first out."""
    mailbox = Mailbox()
    for number in range(3):
        mailbox.put(state(number))
    assert await contents(mailbox) == ["s0", "s1", "s2"]


async def test_who_takes_waits_for_the_next():
    """Without turning in circles."""
    mailbox = Mailbox()
    taken = asyncio.ensure_future(mailbox.take())
    await asyncio.sleep(0)
    assert not taken.done()
    mailbox.put(state(1))
    assert (await taken).text == "s1"


async def test_figures_give_way_to_state():
    """The oldest figures go first."""
    mailbox = Mailbox(most_frames=3)
    for frame in (state(0), figures(0), figures(1), state(1), state(2)):
        mailbox.put(frame)
    assert await contents(mailbox) == ["s0", "s1", "s2"]


async def test_figures_that_do_not_fit_are_dropped():
    """They never push out state."""
    mailbox = Mailbox(most_frames=1)
    mailbox.put(state(0))
    mailbox.put(figures(0))
    assert await contents(mailbox) == ["s0"]
    assert not mailbox._ended.is_set()


async def test_state_that_does_not_fit_ends_the_socket():
    """A reader that missed something must know it."""
    mailbox = Mailbox(most_frames=1)
    mailbox.put(state(0))
    mailbox.put(state(1))
    assert await mailbox.ended() == TOO_SLOW


async def test_the_first_reason_stands():
    """What comes later is a consequence."""
    mailbox = Mailbox()
    mailbox.end(TOO_SLOW)
    mailbox.end(GOING_AWAY)
    assert await mailbox.ended() == TOO_SLOW
