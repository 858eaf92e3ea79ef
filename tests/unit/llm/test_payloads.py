"""What tasks ask of models, as it is read from their payloads."""

from services.gateway.apis.llm import V1_ANSWER_TOKENS
from services.llm.worker.payloads import read_chat


def test_a_conversation_that_does_not_say_may_have_what_was_reserved_for_it():
    """The gateway reserved so many of its owner's tokens; what it says stands, also where the model refuses it."""
    given: tuple[dict[str, int], ...] = ({}, {"max_tokens": 7}, {"max_tokens": 0})
    read = [read_chat({"message": "Hi", **more}, owner_id="u", key="k").max_tokens for more in given]
    assert read == [V1_ANSWER_TOKENS, 7, 0]
