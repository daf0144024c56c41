"""Which addresses are one client."""

import pytest

from app.web.http.clients import client_at


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "address:192.0.2.1"),
        ("::ffff:192.0.2.1", "address:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "address:2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "address:2001:db8:1:3::/64"),
        ("fe80::1%eth0", "address:fe80::/64"),
        ("", "address:"),
    ],
)
def test_a_network_of_64_bits_is_one_client(address: str, client: str) -> None:
    assert client_at(address) == client
