"""By which names a server may be asked for."""

from __future__ import annotations

import pytest

from runtimes.serving.hosts import LOCAL, host_named, hosts_of, is_local


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("Localhost:8000", "localhost"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("a.example", "a.example"),
        ("", ""),
        ("a b", ""),
        ("::1", ""),
        ("a@localhost", ""),
        ("localhost/@b", ""),
        ("localhost:80:80", ""),
        ("[localhost]", ""),
    ],
)
def test_a_header_names_a_host_or_none(header: str, host: str) -> None:
    assert host_named(header) == host


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("a", False)],
)
def test_an_address_is_this_machine_s_own_or_not(host: str, local: bool) -> None:
    assert is_local(host) == local


def test_this_machine_s_own_names_are_taken_at_its_own_address_and_any_elsewhere() -> None:
    assert hosts_of("127.0.0.2") == LOCAL | {"127.0.0.2"}
    assert hosts_of("0.0.0.0") == frozenset()


def test_names_that_are_allowed_are_taken_too() -> None:
    assert hosts_of("localhost", ["Box.example", "[fe80::1]"]) == LOCAL | {"box.example", "fe80::1"}
    assert hosts_of("0.0.0.0", ["box.example:8000"]) == {"box.example"}
    assert hosts_of("localhost", ["*"]) == frozenset()
