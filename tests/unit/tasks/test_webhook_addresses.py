"""Which addresses webhooks may have: a hostile list, names that lead inside, and what settings allow."""

import socket
from ipaddress import ip_address, ip_network

import pytest

from chassis.errors import Invalid
from services.tasks.peers.addresses import Guard, Resolver

GUARD = Guard([], allow_http=False)

INSIDE = [
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "169.254.169.254",
    "169.254.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "168.63.129.16",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "233.252.0.1",
    "240.0.0.1",
    "255.255.255.254",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b::e000:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff::1",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
OUTSIDE = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused(address: str) -> None:
    """As a literal of the URL, and as what a name leads to."""
    with pytest.raises(Invalid) as caught:
        GUARD.check(ip_address(address))
    assert caught.value.code == "WEBHOOK_ADDRESS"
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Invalid) as caught:
        GUARD.parse(f"https://{host}/hook")
    assert caught.value.code == "WEBHOOK_ADDRESS"


@pytest.mark.parametrize("address", OUTSIDE)
def test_an_address_that_everybody_can_call_is_not(address: str) -> None:
    """Also behind the translation of a network without IPv4."""
    GUARD.check(ip_address(address))
    GUARD.parse(f"https://{f'[{address}]' if ':' in address else address}/hook")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "http://example.com/",
        "HTTP://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "https:",
        "https://",
        "https:///path",
        "https://:443/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:-1/",
        "https://example.com:x/",
        "https://example.com#fragment",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://127.1/",
        "https://127.0.1/",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://127.0.0.1./",
        "https://example.com./",
        "https://example..com/",
        "https://.example.com/",
        "https://-example.com/",
        "https://example.1/",
        "https://example.0x1/",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://[2606:4700::1111%25lo]/",
        "https://[v1.a]/",
        "https://exa%6dple.com/",
        "https://example.com%00.evil.com/",
        "https://exam ple.com/",
        " https://example.com/",
        "https://example.com/\n",
        "https://example.com\t/",
        "https://example.com\\@127.0.0.1/",
        "https://ⓛocalhost/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://bücher.example/",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 127}example/",
        f"https://example.com/{'a' * 2000}",
    ],
)
def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    """Whatever a parser somewhere may make of it."""
    with pytest.raises(Invalid) as caught:
        GUARD.parse(url)
    assert caught.value.code == "WEBHOOK_URL"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://EXAMPLE.com:8443/a/b?c=d&e=%20f",
        "https://xn--bcher-kva.example/hook",
        "https://a_b.example.com/",
        "https://1e100.net/",
        "https://0xabc.example/",
        "https://8.8.8.8:8443/",
        "https://[2606:4700::1111]:8443/",
    ],
)
def test_a_plain_url_passes(url: str) -> None:
    """Names, ports, queries, and addresses outside."""
    assert GUARD.parse(url).scheme == "https"


def test_settings_allow_networks_and_http() -> None:
    """The network that is named and no other; http beside https."""
    guard = Guard([ip_network("127.0.0.0/8"), ip_network("fd00::/8")], allow_http=True)
    guard.parse("http://127.0.0.1:8080/")
    guard.parse("https://[fd00::1]/")
    for url in ("http://10.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::a00:1]/"):
        with pytest.raises(Invalid):
            guard.parse(url)


def leading_to(*addresses: str) -> Resolver:
    family = {4: socket.AF_INET, 6: socket.AF_INET6}
    found = [(address, family[ip_address(address).version]) for address in addresses]
    return Resolver(GUARD, lambda host, port: found)


async def test_a_name_leads_to_all_its_addresses() -> None:
    """In their order, ready to be connected to without another look-up."""
    resolver = leading_to("93.184.216.34", "2606:4700::1111")
    found = await resolver.resolve("example.com", 443)
    assert [(one["host"], one["port"], one["family"]) for one in found] == [
        ("93.184.216.34", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]
    await resolver.close()


@pytest.mark.parametrize("inside", ["127.0.0.1", "169.254.169.254", "::1", "64:ff9b::7f00:1", "10.0.0.1"])
async def test_a_name_with_one_address_inside_leads_nowhere(inside: str) -> None:
    """Wherever in the list it stands: who has the name could send every second caller inside."""
    for addresses in ((inside,), ("93.184.216.34", inside), (inside, "93.184.216.34")):
        resolver = leading_to(*addresses)
        with pytest.raises(Invalid) as caught:
            await resolver.resolve("example.com", 443)
        assert caught.value.code == "WEBHOOK_ADDRESS"
        assert inside not in caught.value.message
        await resolver.close()


async def test_a_name_that_changes_is_judged_at_each_look_up() -> None:
    """Outside when it was created, inside when it is called."""
    answers = [[("93.184.216.34", socket.AF_INET)], [("127.0.0.1", socket.AF_INET)]]
    resolver = Resolver(GUARD, lambda host, port: answers.pop(0))
    assert await resolver.resolve("rebound.example", 443)
    with pytest.raises(Invalid):
        await resolver.resolve("rebound.example", 443)
    await resolver.close()
