import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.identity import keys
from services.gateway.identity.model import BadCredential


def test_a_key_reads_back():
    """What was made is understood: the same id, the same digest, the documented form."""
    key_id, digest, plaintext = keys.make("amk")
    assert keys.parse("amk", plaintext) == (key_id, digest)
    kind, found_id, secret, check = plaintext.split("_")
    assert (kind, found_id, len(secret), len(check)) == ("amk", key_id, 30, 6)
    assert keys.is_id(key_id)


def test_keys_do_not_repeat():
    """Ids and secrets are random."""
    assert len({keys.make("amk")[2] for _ in range(100)}) == 100


@given(position=st.integers(0, 53), letter=st.sampled_from("0aZ_é\0"))
def test_one_changed_character_is_noticed(position: int, letter: str):
    """The checksum refuses every single wrong character before anybody is asked."""
    plaintext = keys.make("amk")[2]
    wrong = plaintext[:position] + letter + plaintext[position + 1 :]
    if wrong == plaintext:
        return
    with pytest.raises(BadCredential):
        keys.parse("amk", wrong)


@given(st.text())
def test_no_text_is_an_error_of_ours(text: str):
    """Whatever is sent as a key is refused politely."""
    with pytest.raises(BadCredential):
        keys.parse("amk", f"amk_{text}")


def test_kinds_do_not_mix():
    """A refresh token is no API key."""
    with pytest.raises(BadCredential):
        keys.parse("amk", keys.make("amr")[2])


def test_digests_compare():
    """Equal is equal, different is different."""
    _, digest, _ = keys.make("amk")
    assert keys.equal(digest, bytes(digest))
    assert not keys.equal(digest, bytes(32))
