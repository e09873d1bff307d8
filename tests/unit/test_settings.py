from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from zkserve.cli.console import read_settings
from zkserve.errors import InvalidInput
from zkserve.settings import Settings

KEY = "0x" + "5e" * 32


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("ZKSERVE_"):
            monkeypatch.delenv(name)


def test_all_defaults_are_there_and_safe():
    settings = Settings()
    assert settings.environment == "development"
    assert not settings.production
    assert settings.host == "127.0.0.1"
    assert settings.rpc_url == ""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_read_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch):
    field = Settings.model_fields[name]
    values = {
        "environment": "production",
        "log_level": "ERROR",
        "sandbox": "require",
        "srs_path": "/srv/kzg.srs",
        "data_dir": "/srv/zkserve",
        "require_api_key": "true",
        "fulfil_at_a_loss": "true",
    }
    given = values.get(name, "7" if field.annotation in (int, float) else "text")
    monkeypatch.setenv("ZKSERVE_SRS_SHA256", "aa" * 32)
    monkeypatch.setenv(f"ZKSERVE_{name.upper()}", given)
    value = getattr(Settings(), name)
    if name in ("signer_key", "storage_key"):
        value = value.get_secret_value()
    assert str(value).lower().removesuffix(".0") == given.lower()
    assert value != field.get_default()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_says_what_it_is_for(name: str):
    assert Settings.model_fields[name].description


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("environment", "prod"),
        ("environment", ""),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "eighty"),
        ("require_api_key", "perhaps"),
        ("max_body_bytes", "0"),
        ("max_open_jobs", "0"),
        ("max_inputs_ahead", "0"),
        ("worker_threads", "0"),
        ("prove_time_s", "0"),
        ("prove_memory_mb", "-1"),
        ("prove_attempts", "0"),
        ("confirmations", "-1"),
        ("poll_s", "0"),
        ("max_fee_gwei", "0"),
        ("log_level", "LOUD"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"ZKSERVE_{name.upper()}", value)
    with pytest.raises(InvalidInput, match=f"ZKSERVE_{name.upper()} is wrong") as refused:
        read_settings()
    assert "docs/settings.md" in str(refused.value.remedy)


def test_an_srs_needs_its_digest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SRS_PATH", "/srv/kzg.srs")
    with pytest.raises(InvalidInput) as refused:
        read_settings()
    assert refused.value.message == (
        "The settings contradict each other: ZKSERVE_SRS_PATH needs ZKSERVE_SRS_SHA256: "
        "an SRS is pinned by digest."
    )


def test_the_signers_key_is_never_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SIGNER_KEY", KEY)
    settings = Settings()
    assert settings.signer_key.get_secret_value() == KEY
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert KEY[2:] not in shown


def test_urls_that_may_hold_secrets_are_not_shown():
    settings = Settings(
        database_url="postgresql://zkserve:hunter2@localhost/zkserve",
        rpc_url="https://node.example/v3/hunter2",
    )
    for shown in (repr(settings), str(settings)):
        assert "hunter2" not in shown


def test_another_wrong_setting_does_not_show_the_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SIGNER_KEY", KEY)
    monkeypatch.setenv("ZKSERVE_PORT", "eighty")
    with pytest.raises(InvalidInput) as refused:
        read_settings()
    assert KEY[2:] not in str(refused.value)


def test_the_database_lies_in_the_data_folder_unless_named(tmp_path: Path):
    url = Settings(data_dir=tmp_path).database
    assert url == f"sqlite:///{tmp_path.resolve() / 'zkserve.db'}"
    named = "postgresql+psycopg://somewhere/zkserve"
    assert Settings(data_dir=tmp_path, database_url=named).database == named


def test_settings_do_not_change_once_read():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]
