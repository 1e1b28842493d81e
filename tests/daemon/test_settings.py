"""Flags and environment as values; the sockets that follow from them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from routerd.daemon.cpus import usable_cpus
from routerd.daemon.settings import Address, Listeners, bind, duration_s, settings_from


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:0", "::1", 0),
        (":8080", "0.0.0.0", 8080),
        ("localhost:1", "localhost", 1),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "8080", "127.0.0.1", "::1:8080", "host:99999", "host:-1", "a b:1", "http://x:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Address.parse(text)


def test_an_address_prints_as_it_is_typed() -> None:
    assert [str(Address.parse(text)) for text in ("[::1]:80", "h:80")] == ["[::1]:80", "h:80"]


@pytest.mark.parametrize(
    ("text", "length_s"), [("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("2h", 7200), ("1.5s", 1.5), ("0", 0), ("0.0", 0)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, length_s: float) -> None:
    assert duration_s(text) == length_s


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1 s", "1s2", "60", "1.5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        duration_s(text)


def test_a_flag_wins_over_the_environment_which_wins_over_the_default() -> None:
    environ = {"ROUTERD_WORKERS": "3", "ROUTERD_CONFIG": "env.yaml", "ROUTERD_OPEN": "true", "ROUTERD_LOG_FORMAT": ""}
    settings = settings_from({"config": "flag.yaml", "workers": None}, environ)
    assert (settings.config, settings.workers, settings.open) == (Path("flag.yaml"), 3, True)
    assert (settings.listen, settings.log_format) == (Address("127.0.0.1", 8080), "text")
    assert settings.state_dir is None


@pytest.mark.parametrize(
    ("flags", "environ", "names"),
    [
        ({"workers": "0"}, {}, "--workers"),
        ({"workers": "1.5"}, {}, "--workers"),
        ({}, {"ROUTERD_WORKERS": "many"}, "ROUTERD_WORKERS"),
        ({"listen": "here"}, {}, "--listen"),
        ({}, {"ROUTERD_ADMIN": "x"}, "ROUTERD_ADMIN"),
        ({"drain_timeout": "soon"}, {}, "--drain-timeout"),
        ({"log_format": "xml"}, {}, "--log-format"),
        ({}, {"ROUTERD_OPEN": "perhaps"}, "ROUTERD_OPEN"),
    ],
)
def test_a_value_that_makes_no_sense_names_where_it_stands(flags: dict[str, str], environ: dict[str, str], names: str) -> None:
    with pytest.raises(ValueError, match=f"^{names}: "):
        settings_from(flags, environ)


def test_clients_and_the_admin_listener_never_share_an_address() -> None:
    with pytest.raises(ValueError, match=r"^--admin: h:80 is also where clients connect"):
        settings_from({"listen": "h:80", "admin": "h:80"}, {})
    assert settings_from({"listen": "h:0", "admin": "h:0"}, {}).admin.port == 0  # the kernel chooses two


def test_auto_is_one_worker_for_each_cpu_we_may_use() -> None:
    assert settings_from({"workers": "auto"}, {}).workers == usable_cpus()


def test_all_workers_listen_on_the_one_port_the_kernel_chose() -> None:
    listeners = Listeners(Address("127.0.0.1", 0), 3)
    ports = {listeners.socket(i).getsockname()[1] for i in range(3)}
    assert ports == {listeners.address.port}
    assert listeners.address.port != 0
    assert not listeners.is_public
    listeners.close_all()


def test_nobody_can_connect_before_a_worker_listens_nor_after_closing() -> None:
    listeners = Listeners(Address("127.0.0.1", 0), 2)
    where = ("127.0.0.1", listeners.address.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)
    listeners.socket(0).listen()
    socket.create_connection(where).close()
    listeners.close_all()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where)


def test_a_port_that_another_daemon_shares_among_its_workers_is_taken() -> None:
    first = Listeners(Address("127.0.0.1", 0), 1)
    first.socket(0).listen()
    with pytest.raises(OSError, match="in use"):
        Listeners(first.address, 1)
    first.close_all()


def test_two_daemons_that_start_at_the_same_time_do_not_share_a_port() -> None:
    """The first one does not listen yet, so the kernel would let them."""
    first = Listeners(Address("127.0.0.1", 0), 2)
    with pytest.raises(OSError, match="in use"):
        Listeners(first.address, 1)
    first.close_all()  # it drains: its successor may start
    Listeners(first.address, 1).close_all()


def test_a_closed_socket_comes_back_on_the_same_port() -> None:
    listeners = Listeners(Address("127.0.0.1", 0), 2)
    listeners.close(1)
    assert listeners.socket(1).getsockname()[1] == listeners.address.port
    listeners.close_all()


def test_every_address_is_public() -> None:
    listeners = Listeners(Address("0.0.0.0", 0), 1)
    assert listeners.is_public
    listeners.close_all()


def test_a_name_that_does_not_resolve_is_an_operating_system_error() -> None:
    with pytest.raises(OSError, match=r"Name or service|resolution|No address"):
        bind(Address("no-such-host.invalid", 1), shared=False)


def test_the_last_good_one_needs_a_place_where_it_is_kept() -> None:
    told = settings_from({"on_invalid": "last-good", "state_dir": "/var/lib/routerd"}, {})
    assert told.on_invalid == "last-good"
    assert settings_from({}, {}).on_invalid == "fail"
    with pytest.raises(ValueError, match="--on-invalid last-good: needs --state-dir"):
        settings_from({}, {"ROUTERD_ON_INVALID": "last-good"})
    with pytest.raises(ValueError, match="--on-invalid: 'maybe' is neither `fail` nor `last-good`"):
        settings_from({"on_invalid": "maybe"}, {})


def test_an_inherited_socket_is_shared_by_all_workers_and_not_closed_for_the_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        listeners = Listeners(Address("127.0.0.1", 1), 2, given.dup())
        assert listeners.address.port == given.getsockname()[1]
        first, second = listeners.socket(0), listeners.socket(1)
        assert first is not second
        assert first.getsockname() == second.getsockname() == given.getsockname()
        listeners.close(0)
        assert listeners.socket(0).getsockname() == given.getsockname()
        listeners.close_all()
        with socket.create_connection(given.getsockname(), 1):  # the service manager holds it open
            pass


@pytest.mark.parametrize(
    ("flags", "environ", "ledger"),
    [
        ({}, {}, ""),
        ({"state_dir": "/s"}, {}, "/s/ledger.sqlite3"),
        ({"state_dir": "/s", "ledger": "off"}, {}, ""),
        ({"state_dir": "/s", "ledger": "/l/x.db"}, {}, "/l/x.db"),
        ({"state_dir": "/s"}, {"ROUTERD_LEDGER": "postgres://h/d"}, "postgres://h/d"),
    ],
)
def test_the_ledger_is_in_the_state_directory_unless_told_otherwise(
    flags: dict[str, str], environ: dict[str, str], ledger: str
) -> None:
    assert settings_from(flags, environ).ledger == ledger


def test_a_ledger_is_kept_for_ninety_days_or_as_told() -> None:
    assert settings_from({}, {}).ledger_keep_s == 90 * 86400
    assert settings_from({"ledger_keep": "forever"}, {}).ledger_keep_s == 0
    with pytest.raises(ValueError, match=r"^--ledger-keep: '5' is not a length, such as 90d, nor `forever`$"):
        settings_from({"ledger_keep": "5"}, {})
    with pytest.raises(ValueError, match=r"^--ledger: mysql:// is no ledger"):
        settings_from({"ledger": "mysql://me:secret@h/d"}, {})
    assert "secret" not in repr(settings_from({"ledger": "postgres://me:secret@h/d"}, {}))


def test_a_state_directory_that_is_a_file_is_told_at_once_and_a_missing_one_is_made_later(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for wrong in (file, file / "below"):
        with pytest.raises(ValueError, match=f"--state-dir: {file} is no directory"):
            settings_from({"state_dir": str(wrong)}, {})
    missing = tmp_path / "a" / "b"
    assert settings_from({"state_dir": str(missing)}, {}).state_dir == missing
