"""Settings: defaults that work, and one clear line for each mistake."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config.mistakes import describe
from app.config.settings import Settings, load
from app.domain.addresses import EmailKeys
from app.domain.errors import SettingsError
from app.worker.preflight import checked
from local.machine import free_port
from local.settings import LocalSettings, data_dir


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_defaults_bind_to_loopback() -> None:
    settings = load()
    assert (settings.web_host, settings.web_port, settings.partitions) == ("127.0.0.1", 6066, 8)
    assert settings.url == "http://127.0.0.1:6066"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PARTITIONS", "0", "PARTITIONS: must be at least 1 (got 0)"),
        ("WEB_PORT", "eighty", "WEB_PORT: must be a whole number (got eighty)"),
        ("KAFKA_BROKERS", "here", "KAFKA_BROKERS: must be host:port, several separated by"),
        ("APP_ID", "a b", "APP_ID: must be letters, digits, '.', '_' and '-' (got a b)"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL: must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR' (got"),
        ("ACK_TIMEOUT_SECONDS", "0", "ACK_TIMEOUT_SECONDS: must be more than 0 (got 0)"),
        ("ALLOW_OPEN_BIND", "maybe", "ALLOW_OPEN_BIND: must be 1 or 0 (got maybe)"),
        ("WEB_HOST", "0.0.0.0", "WEB_HOST: beyond loopback anyone may write; set KEYS_FILE to"),
        ("TLS_KEY_FILE", "key.pem", "TLS_CERT_FILE, TLS_KEY_FILE: set both or neither"),
        ("CORS_ORIGINS", "example.com", "CORS_ORIGINS: must be origins such as https://"),
        ("CORS_ORIGINS", "https://a.example/", "CORS_ORIGINS: must be origins such as https://"),
        ("CORS_ORIGINS", "*", "CORS_ORIGINS: * lets the scripts of any site write; set KEYS_FILE"),
        ("ALLOWED_HOSTS", "a.example:80", "ALLOWED_HOSTS: must be names or addresses without"),
        ("ALLOWED_HOSTS", "a:1", "ALLOWED_HOSTS: must be names or addresses without ports"),
        ("ALLOWED_HOSTS", "127.0.0.1:80", "ALLOWED_HOSTS: must be names or addresses without"),
        ("ALLOWED_HOSTS", "a,[::1]:80", "ALLOWED_HOSTS: must be names or addresses without"),
        ("ALLOWED_HOSTS", "a b", "ALLOWED_HOSTS: must be names or addresses without ports"),
        ("ALLOWED_HOSTS", "https://a.example", "ALLOWED_HOSTS: must be names or addresses"),
        ("ALLOWED_HOSTS", "*", "ALLOWED_HOSTS: must be names or addresses without ports"),
        ("SESSION_HOURS", "0", "SESSION_HOURS: must be more than 0 (got 0)"),
        ("TRUSTED_PROXIES", "-1", "TRUSTED_PROXIES: must be at least 0 (got -1)"),
        ("KAFKA_BROKERS", "kafka.example:9092", "EMAIL_SECRET: must be set for a broker beyond"),
        ("EMAIL_SECRET", "short and known", "EMAIL_SECRET: must have at least 16 characters"),
        ("EMAIL_SECRET_FILE", "/nothing", "EMAIL_SECRET_FILE: /nothing cannot be read: No such"),
        ("SIGNING_SECRET", "short and known,x", "SIGNING_SECRET: each must have at least 16"),
        ("SIGNING_SECRET_FILE", "/", "SIGNING_SECRET_FILE: / cannot be read: Is a directory"),
        ("WEB_URL", "http://here:6066/x", "WEB_URL: must be http://host:port (got"),
        ("WEB_URL", "http://me@here:6066", "WEB_URL: must be http://host:port (got"),
        ("ERASE_WITHIN_HOURS", "1", "ERASE_WITHIN_HOURS: must be at least 2 (got 1)"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert "short and known" not in str(caught.value)


@pytest.mark.parametrize("name", ["EMAIL_SECRET", "SIGNING_SECRET"])
def test_a_secret_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef\n")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert load().signing_secrets == [b"0123456789abcdef"]
    assert "0123456789abcdef" not in repr(load())
    monkeypatch.setenv(name, "fedcba9876543210")
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value) == f"{name}, {name}_FILE: set one of them"
    monkeypatch.delenv(name)
    path.write_text("short and known")
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(f"{name}: ")
    assert "short and known" not in str(caught.value)


def test_signing_has_a_secret_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMAIL_SECRET", "a secret, with a comma")
    assert load().signing_secrets == [b"a secret, with a comma"]
    monkeypatch.setenv("SIGNING_SECRET", "the-second-of-secrets, the-first-of-secrets")
    both = [b"the-second-of-secrets", b"the-first-of-secrets"]
    assert load().signing_secrets == both
    path = tmp_path / "secrets"
    path.write_text("the-second-of-secrets\nthe-first-of-secrets\n")
    monkeypatch.delenv("SIGNING_SECRET")
    monkeypatch.setenv("SIGNING_SECRET_FILE", str(path))
    assert load().signing_secrets == both
    assert load().email_keys.key("ada@example.com") == EmailKeys(b"a secret, with a comma").key(
        "ada@example.com"
    )


def test_each_mistake_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITIONS", "x")
    monkeypatch.setenv("WEB_PORT", "0")
    with pytest.raises(SettingsError) as caught:
        load()
    assert len(str(caught.value).splitlines()) == 2


def test_an_open_bind_must_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_HOST", "0.0.0.0")
    monkeypatch.setenv("ALLOW_OPEN_BIND", "1")
    assert load().web_host == "0.0.0.0"


def test_with_keys_it_may_bind_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_HOST", "0.0.0.0")
    monkeypatch.setenv("KEYS_FILE", "keys.json")
    assert load().is_open


def test_the_internal_address_is_loopback_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INTERNAL_PORT", "6067")
    assert (load().url, load().own_address) == ("http://127.0.0.1:6067", ("127.0.0.1", 6067))
    monkeypatch.setenv("WEB_HOST", "0.0.0.0")
    monkeypatch.setenv("ALLOW_OPEN_BIND", "1")
    assert load().own_address == ("127.0.0.1", 6067)
    monkeypatch.delenv("WEB_HOST")
    monkeypatch.delenv("ALLOW_OPEN_BIND")
    monkeypatch.setenv("INTERNAL_HOST", "10.0.0.1")
    with pytest.raises(SettingsError, match=r"^INTERNAL_HOST: beyond loopback anyone may read; "):
        load()
    monkeypatch.setenv("KEYS_FILE", "keys.json")
    assert (load().url, load().is_open) == ("http://10.0.0.1:6067", True)
    monkeypatch.setenv("WEB_URL", "http://worker-1:7000")
    assert load().url == "http://worker-1:7000"


def test_the_two_addresses_have_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_PORT", "6066")
    with pytest.raises(SettingsError, match=r"^INTERNAL_PORT: must differ from WEB_PORT"):
        load()


def test_with_a_certificate_its_address_is_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLS_CERT_FILE", "cert.pem")
    monkeypatch.setenv("TLS_KEY_FILE", "key.pem")
    assert load().url == "https://127.0.0.1:6066"


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().origins == set()
    monkeypatch.setenv("CORS_ORIGINS", "https://A.example, http://localhost:3000")
    assert load().origins == {"https://a.example", "http://localhost:3000"}


def test_ipv6_loopback_is_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_HOST", "::1")
    assert load().url == "http://[::1]:6066"


def test_every_knob_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_PORT", "")
    assert load().web_port == 6066


def test_another_secret_makes_other_keys_and_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = load().email_keys
    monkeypatch.setenv("EMAIL_SECRET", "0123456789abcdef")
    monkeypatch.setenv("KAFKA_BROKERS", "kafka.example:9092")
    secret = load().email_keys
    assert secret.key("ada@example.com") != local.key("ada@example.com")
    assert secret.fingerprint() != local.fingerprint()
    assert "0123456789abcdef" not in repr(load())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_MECHANISM: must be set for SASL_SSL"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN"},
            "KAFKA_USERNAME, KAFKA_PASSWORD: must be set for PLAIN",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER"},
            "KAFKA_TOKEN_FILE: must be set for OAUTHBEARER",
        ),
        ({"KAFKA_USERNAME": "someone"}, "KAFKA_SECURITY_PROTOCOL: must be SASL_SSL or SASL_PLAIN"),
        ({"KAFKA_CA_FILE": "ca.pem"}, "KAFKA_SECURITY_PROTOCOL: must be SSL or SASL_SSL, as cert"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_KEY_FILE": "key.pem"},
            "KAFKA_CERTIFICATE_FILE, KAFKA_KEY_FILE: set both or neither",
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CA_FILE": "/nowhere/ca.pem"},
            "KAFKA_CA_FILE: /nowhere/ca.pem cannot be read: No such file or directory",
        ),
    ],
)
def test_a_contradiction_about_kafka_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_password_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("one that nobody guesses\n")
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "PLAIN")
    monkeypatch.setenv("KAFKA_USERNAME", "someone")
    monkeypatch.setenv("KAFKA_PASSWORD_FILE", str(tmp_path / "password"))
    connection = load().kafka
    assert connection.password == "one that nobody guesses"
    assert "nobody guesses" not in repr(connection)


# -- what 0.8 had


def test_a_setting_that_promises_what_is_not_kept_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPOOL_MIB", "64")
    with pytest.raises(SettingsError, match=r"^SPOOL_MIB: there is no spool any more"):
        load()
    monkeypatch.setenv("SPOOL_MIB", "0")
    load()


def test_writes_that_0_8_has_acknowledged_are_not_left_behind(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, web_port=free_port())
    (tmp_path / "spool").mkdir()
    with checked(given):
        pass
    (tmp_path / "spool" / "000000000001.spool").touch()
    with pytest.raises(SettingsError, match=r"^DATA_DIR: .* holds writes that version 0.8"):
        checked(given).__enter__()


# -- whatever is given

#: What no setting is meant to be given, and what is given by mistake.
ODD = (
    " ",
    "\n",
    " 1 ",
    "1\r\n",
    "ä",
    "\u0661",
    "a\nb",
    "a\x00b",
    "\udcff",
    "x" * 100_000,
    "/" + "x" * 300,
    "-1",
    "0",
    "1e-320",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "9" * 400,
    "9" * 5_000,
    "None",
    "[]",
    "{braces}",
    "%s",
    "~",
    "~nobody-is-called-so/x",
    "/dev/null/x",
    "http://[::1",
    "http://h:99999",
    "http://h:0",
    "http://" + "h" * 70,
    "127.0.0.1:90922",
    "127.0.0.1:0",
    "[::1]",
    "::1",
    "h..h:1",
    "a:1,",
)


@pytest.mark.parametrize("name", [name.upper() for name in LocalSettings.model_fields])
def test_whatever_is_given_is_taken_or_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ODD:
        monkeypatch.setattr("os.environ", {"HOME": str(tmp_path), name: value})
        try:
            taken = LocalSettings()
        except ValidationError as error:
            told = describe(error)
            assert re.match(r"[A-Z_, ]+: ", told), value
            assert len(told) < 300
            assert not set(told).intersection("\n\r\x00\udcff")
            continue
        assert taken.url.isprintable()
        assert len(taken.kafka.addresses) == taken.kafka_brokers.count(",") + 1
        _ = taken.email_keys.fingerprint(), taken.origins, list(taken.internal_ports), taken.is_open


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("PARTITIONS", " 4\n", 4),
        ("ACK_TIMEOUT_SECONDS", "\t2.5 ", 2.5),
        ("ALLOW_OPEN_BIND", " True\r\n", True),
        ("ALLOW_OPEN_BIND", "OFF", False),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_FORMAT", "JSON", "json"),
        ("COMPRESSION", "Zstd", "zstd"),
        ("KAFKA_SECURITY_PROTOCOL", "plaintext\n", "PLAINTEXT"),
        ("APP_ID", " mine ", "mine"),
        ("WEB_HOST", "[::1]", "::1"),
        ("KAFKA_BROKERS", "[::1]:9092, localhost:9093", "[::1]:9092,localhost:9093"),
        ("DATA_DIR", "~/reg", Path("/home/of/mine/reg")),
        ("KEYS_FILE", "~/keys.json", Path("/home/of/mine/keys.json")),
    ],
)
def test_what_is_meant_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: object
) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    monkeypatch.setenv(name, value)
    assert getattr(load(), name.lower()) == meant


@pytest.mark.parametrize("around", ["\n", "\r\n", " ", "\t\n"])
def test_line_ends_and_blanks_are_no_part_of_a_secret(
    monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    monkeypatch.setenv("EMAIL_SECRET", "0123456789abcdef")
    meant = load()
    monkeypatch.setenv("EMAIL_SECRET", f"{around}0123456789abcdef{around}")
    assert load().email_keys.fingerprint() == meant.email_keys.fingerprint()
    assert load().signing_secrets == [b"0123456789abcdef"]
    monkeypatch.setenv("EMAIL_SECRET", f"012345{around}")
    with pytest.raises(SettingsError, match=r"^EMAIL_SECRET: must have at least 16 characters"):
        load()


@pytest.mark.parametrize(
    ("name", "held", "told"),
    [
        ("KAFKA_PASSWORD_FILE", b" \n", "is empty"),
        ("KAFKA_PASSWORD_FILE", b"one\ntwo", "must hold one line"),
        ("KAFKA_TOKEN_FILE", b"one\r\ntwo\r\n", "must hold one line"),
        ("KAFKA_PASSWORD_FILE", b"\xff", "cannot be read: it holds no text"),
        ("KAFKA_CA_FILE", b"", "is empty"),
    ],
)
def test_a_file_that_holds_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, held: bytes, told: str
) -> None:
    (tmp_path / "file").write_bytes(held)
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    is_token = name == "KAFKA_TOKEN_FILE"
    monkeypatch.setenv("KAFKA_SASL_MECHANISM", "OAUTHBEARER" if is_token else "PLAIN")
    monkeypatch.setenv("KAFKA_USERNAME", "someone")
    if name == "KAFKA_CA_FILE":
        monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value) == f"{name}: {tmp_path / 'file'} {told}"


def test_a_name_in_small_letters_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("web_host", "0.0.0.0")
    monkeypatch.setenv("partitions", "many")
    assert (load().web_host, load().partitions) == ("127.0.0.1", 8)


def test_more_copies_than_there_are_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATION_FACTOR", "1")
    monkeypatch.setenv("MIN_INSYNC_REPLICAS", "2")
    with pytest.raises(SettingsError, match=r"^MIN_INSYNC_REPLICAS: must be at most"):
        load()


def test_where_everything_is_is_known_although_other_settings_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARTITIONS", "many")
    monkeypatch.setenv("WEB_HOST", "0.0.0.0")
    monkeypatch.setenv("DATA_DIR", "/somewhere")
    assert data_dir() == Path("/somewhere")
