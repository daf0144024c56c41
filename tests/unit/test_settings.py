"""Settings: defaults that work, and one clear line for each mistake."""

from pathlib import Path

import pytest

from app.errors import SettingsError
from app.keys import EmailKeys
from app.preflight import checked
from app.settings import Settings, load
from local.machine import free_port


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
