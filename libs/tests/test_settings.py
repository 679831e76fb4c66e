"""Settings: every variable that is wrong is named in one sentence, and the program does not start."""

from pathlib import Path

import pytest

from libs.settings import HttpSettings, ServiceSettings

RIGHT = {"DATABASE_URL": "sqlite:///right.db", "FINGERPRINT_KEY": "0123456789abcdef"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which everything that must be set is set, and nothing else."""
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in RIGHT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def sentences(capsys: pytest.CaptureFixture[str], settings: type[HttpSettings] = ServiceSettings) -> list[str]:
    """Start with settings that are wrong, and return what is said about them."""
    with pytest.raises(SystemExit) as exit_:
        settings.from_environment()
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err.splitlines()


def test_the_environment_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PORT", "8123")
    environment.setenv("PATIENCE_S", "0.5")
    environment.setenv("JWT_PUBLIC_KEYS", "keys/public.pem")
    environment.setenv("NATS_PASSWORD", "secret")
    settings = ServiceSettings.from_environment()
    assert (settings.port, settings.patience_s) == (8123, 0.5)
    assert settings.jwt_public_keys == Path("keys/public.pem")
    assert settings.database_url.get_secret_value() == RIGHT["DATABASE_URL"]
    assert settings.nats_password is not None
    assert settings.nats_password.get_secret_value() == "secret"


def test_what_is_not_set_has_its_default_and_listens_on_loopback_only() -> None:
    settings = ServiceSettings.from_environment()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.nats_user is None
    assert settings.stream_max_bytes == 1 << 30


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("", None),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("https://collector.example.org/otlp/", "https://collector.example.org/otlp"),
    ],
)
def test_a_collector_is_the_base_of_its_paths(environment: pytest.MonkeyPatch, given: str, meant: str | None) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", given)
    assert ServiceSettings.from_environment().otel_exporter_otlp_endpoint == meant


def test_variables_of_others_are_passed_over(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("EDITOR", "ed")
    environment.setenv("UNKNOWN", "…")
    ServiceSettings.from_environment()


def test_secrets_are_not_shown() -> None:
    shown = repr(ServiceSettings.from_environment())
    assert RIGHT["FINGERPRINT_KEY"] not in shown
    assert RIGHT["DATABASE_URL"] not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", ""),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("LOG_LEVEL", "LOUD"),
        ("FINGERPRINT_KEY", "fifteen-letters"),
        ("PATIENCE_S", "0"),
        ("PATIENCE_S", "-1"),
        ("PATIENCE_S", "3601"),
        ("PATIENCE_S", "nan"),
        ("STREAM_REPLICAS", "0"),
        ("STREAM_REPLICAS", "6"),
        ("STREAM_MAX_BYTES", "1048575"),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "65"),
        ("BATCH_LIMIT", "0"),
        ("BATCH_LIMIT", "1001"),
        ("TRACES_PER_SECOND", "-1"),
        ("TRACES_PER_SECOND", "nan"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:port"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/?a=b"),
    ],
)
def test_a_wrong_variable_is_named_in_one_sentence(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)
    (said,) = sentences(capsys)
    assert said.startswith(f"setting {name}: ")
    assert len(said) > len(f"setting {name}: ")


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_missing_variable_is_named_in_one_sentence(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.delenv(name)
    (said,) = sentences(capsys)
    assert said.startswith(f"setting {name}: ")


def test_every_wrong_variable_gets_its_own_sentence(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PORT": "abc", "POOL_SIZE": "many", "FINGERPRINT_KEY": "short-secret"}.items():
        environment.setenv(name, value)
    said = sentences(capsys)
    assert sorted(line.split(":")[0] for line in said) == [
        "setting FINGERPRINT_KEY",
        "setting POOL_SIZE",
        "setting PORT",
    ]
    assert "short-secret" not in "".join(said)


def test_a_process_without_database_names_its_own_variables(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("PORT", "abc")
    environment.delenv("DATABASE_URL")
    (said,) = sentences(capsys, HttpSettings)
    assert said.startswith("setting PORT: ")


@pytest.mark.parametrize("url", ["nonsense", "mysql://ann:secret@127.0.0.1/orders", ""])
def test_a_database_that_is_not_supported_is_named_in_one_sentence(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    environment.setenv("DATABASE_URL", url)
    (said,) = sentences(capsys)
    assert said.startswith("setting DATABASE_URL: ")
    assert "secret" not in said
