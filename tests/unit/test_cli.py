from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import psutil
import pytest
import typer.main
from typer.testing import CliRunner

from zkserve import cli, rekey, runtime
from zkserve.cli.console import report_error
from zkserve.cli.user import _version_number
from zkserve.client import Client, Prediction
from zkserve.errors import NotFound, Unauthorized, ZkserveError
from zkserve.settings import Settings
from zkserve.types import Claim, WeightsMode

PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True, kw_only=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in a folder of its own: ``run("keys", "list", stdin=b"")``."""
    for name in list(os.environ):
        if name.upper().startswith("ZKSERVE_"):
            monkeypatch.delenv(name)
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "argv", ["zkserve", *arguments])
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return Ended(status=status, out=said.out, err=said.err)

    return run


@pytest.fixture
def ready(run: Run) -> Run:
    """The command line with its database made."""
    assert run("db", "upgrade").status == 0
    return run


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    group = group or typer.main.get_command(cli.app)  # type: ignore[assignment]
    for name, command in group.commands.items():  # type: ignore[union-attr]
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
READ_NO_SETTINGS = {("verify",), ("demo",), ("card",), ("srs", "import"), ("storage", "new-key")}
each_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def test_the_commands_are_those_that_were_promised():
    assert {" ".join(path) for path in COMMANDS} >= {
        "publish",
        "serve",
        "work",
        "predict",
        "verify",
        "status",
        "doctor",
        "demo",
        "db upgrade",
        "keys create",
        "keys list",
        "keys revoke",
        "chain deploy",
    }


@each_command
def test_help_shows_an_example(path: tuple[str, ...]):
    shown = CliRunner().invoke(cli.app, [*path, "--help"], env=PLAIN)
    assert shown.exit_code == 0
    described, _, options = shown.output.partition("Options")
    example = described.partition("Usage:")[2].partition("\n")[2]
    assert f"zkserve {' '.join(path)}" in " ".join(example.split()), described
    assert options


@each_command
def test_every_command_takes_json(path: tuple[str, ...]):
    options = {name for option in COMMANDS[path].params for name in option.opts}
    assert "--json" in options


@each_command
def test_every_option_says_what_it_is_for(path: tuple[str, ...]):
    for parameter in COMMANDS[path].params:
        assert getattr(parameter, "help", None), parameter.name


def test_without_a_command_it_shows_them(run: Run):
    shown = run()
    for name in ("publish", "predict", "verify", "doctor"):
        assert name in shown.out + shown.err


def test_an_unknown_command_is_a_mistake_of_usage(run: Run):
    ended = run("prove")
    assert ended.status == 2
    assert "prove" in ended.err


# errors


def test_an_error_says_what_to_do_on_standard_error(run: Run):
    ended = run("keys", "list")
    assert ended.status == 1
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert "zkserve db upgrade" in ended.err


def test_an_error_is_a_problem_object_with_json(run: Run):
    ended = run("keys", "list", "--json")
    assert ended.status == 1
    assert ended.err == ""
    problem = ended.json["error"]
    assert problem.keys() == {"code", "detail", "remedy"}
    assert "zkserve db upgrade" in problem["remedy"]


@pytest.mark.parametrize(
    "text", ["[/]", "[/x]", "[red]", "[1, 30]", "\\[", "[link=http://x]y", ":boom:"]
)
def test_an_error_is_shown_as_it_was_said(text: str, capsys: pytest.CaptureFixture[str]):
    report_error(ZkserveError(f"odd {text} name.", remedy=f"Avoid {text}."), as_json=False)
    shown = capsys.readouterr().err
    assert f"odd {text} name." in shown
    assert f"Avoid {text}." in shown


def test_a_file_name_cannot_break_the_report(run: Run):
    ended = run("verify", "[/x].json", "--artifacts", "nowhere")
    assert ended.status == 1
    assert "There is no receipt at [/x].json." in ended.err


@pytest.mark.parametrize("path", sorted(COMMANDS.keys() - READ_NO_SETTINGS), ids=" ".join)
def test_a_wrong_setting_is_named_before_anything_is_done(
    path: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    needs = {
        ("publish",): ["x.onnx"],
        ("rekey",): ["x.onnx"],
        ("predict",): ["tiny"],
        ("keys", "create"): ["clinic"],
        ("keys", "revoke"): ["abc"],
        ("jobs", "retry"): ["abc"],
        ("deprecate",): ["tiny", "1"],
        ("audit",): [
            "0x" + "01" * 32,
            "--rpc-url",
            "http://127.0.0.1:9",
            "--registry",
            "0x" + "1" * 40,
        ],
    }
    monkeypatch.setenv("ZKSERVE_PORT", "eighty")
    ended = run(*path, *needs.get(path, []), "--json", stdin=b"[1]")
    assert ended.status == 1
    assert ended.json["error"]["code"] == "invalid-input"
    assert "ZKSERVE_PORT" in ended.json["error"]["detail"]
    assert not list(tmp_path.iterdir())


def test_the_process_exits_with_one_and_no_traceback(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ZKSERVE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "zkserve", "verify", "[/nowhere].json", "--url", "http://x"],
        cwd=tmp_path,
        env=environment | PLAIN,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: There is no receipt at [/nowhere].json.")
    assert "Traceback" not in ended.stderr


def test_rekey_says_which_tables_of_the_recipe_to_change(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Names in brackets are no markup of the terminal's."""
    manifest = SimpleNamespace(engine="native", weights_mode=WeightsMode.COMMITTED, leak=None)
    published = SimpleNamespace(model="leaky", number=2, manifest=manifest)
    made = rekey.Rekeyed(published=published, replaced=(1,), why="it hides", caveat="[unseen]")
    monkeypatch.setattr(rekey, "rekey", lambda *_, **__: made)
    circuit = Path(__file__).parents[2] / "circuits" / "breast_cancer"
    assert run("db", "upgrade").status == 0
    ended = run("rekey", str(circuit), "--no-chain")
    assert ended.status == 0, ended.err
    said = " ".join(ended.out.split())
    assert 'Put name = "native" under [engine] and weights = "committed" under [visibility]' in said
    assert "[unseen]" in said
    assert "Deprecated: version 1." in said


def test_an_interrupt_exits_as_one(run: Run, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.doctor, "read_settings", interrupted)
    ended = run("doctor")
    assert ended.status == 130
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, number: int):
    def full(_: int) -> None:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "fsync", full)
    for ended in (run("keys", "list"), run("keys", "list", "--json")):
        assert ended.status == 1
        assert "The disk is full." in ended.out + ended.err
        assert "Traceback" not in ended.err


# db, keys, doctor


def test_the_database_is_made_and_made_again(run: Run, tmp_path: Path):
    assert run("db", "upgrade", "--json").json == {"upgraded": True}
    assert (tmp_path / "data" / "zkserve.db").is_file()
    assert "up to date" in run("db", "upgrade").out


def test_a_key_is_shown_once_and_never_stored(ready: Run, tmp_path: Path):
    key = ready("keys", "create", "clinic").out.strip()
    scheme, prefix, secret = key.split("_")
    assert scheme == "zk"
    listed = ready("keys", "list", "--json")
    (row,) = listed.json
    assert (row["prefix"], row["tenant"], row["revoked"]) == (prefix, "clinic", False)
    assert secret not in listed.out
    for path in (tmp_path / "data").rglob("zkserve.db*"):
        assert secret.encode() not in path.read_bytes()


def test_keys_are_listed_for_people(ready: Run):
    ready("keys", "create", "clinic")
    ready("keys", "create", "[/odd] [red]name")
    shown = ready("keys", "list").out
    assert "clinic" in shown
    assert "[/odd] [red]name" in shown


def test_a_key_is_revoked_for_good(ready: Run):
    key = ready("keys", "create", "clinic", "--json").json["key"]
    prefix = key.split("_")[1]
    assert ready("keys", "revoke", prefix, "--json").json == {"revoked": prefix}
    assert ready("keys", "revoke", prefix).status == 0
    (row,) = ready("keys", "list", "--json").json
    assert row["revoked"]
    assert "revoked" in ready("keys", "list").out


@pytest.mark.parametrize("prefix", ["", "nothing", "%", "zk_"])
def test_revoking_what_there_is_not_says_how_to_look(ready: Run, prefix: str):
    ended = ready("keys", "revoke", prefix)
    assert ended.status == 1
    assert "zkserve keys list" in ended.err


@pytest.mark.parametrize("tenant", ["", "x" * 64, "line\nbreak", "anonymous"])
def test_a_name_no_tenant_can_have_makes_no_key(ready: Run, tenant: str):
    assert ready("keys", "create", tenant).status == 1
    assert ready("keys", "list", "--json").json == []


def test_doctor_says_that_the_database_is_missing_and_what_to_do(run: Run):
    ended = run("doctor", "--json")
    assert ended.status == 1
    assert not ended.json["healthy"]
    checks = {check["check"]: check for check in ended.json["checks"]}
    assert not checks["database"]["ok"]
    assert "zkserve db upgrade" in checks["database"]["found"]
    assert checks["packages"]["ok"]
    assert checks["chain"] == {"check": "chain", "ok": True, "found": "none set"}
    shown = run("doctor")
    assert shown.status == 1
    assert "zkserve db upgrade" in shown.out


def test_doctor_is_content_once_it_is_made(ready: Run):
    ended = ready("doctor", "--json")
    checks = {check["check"]: check for check in ended.json["checks"]}
    assert checks["database"] == {"check": "database", "ok": True, "found": "SQLite, up to date"}
    assert "forged" in checks["srs"]["found"]


@pytest.mark.parametrize("total", [0, 1 << 30])
def test_doctor_says_that_swap_is_on(ready: Run, monkeypatch: pytest.MonkeyPatch, total: int):
    swap = psutil.swap_memory()._replace(total=total)
    monkeypatch.setattr(psutil, "swap_memory", lambda: swap)
    monkeypatch.setattr(runtime, "in_memory", lambda _: True)
    monkeypatch.setattr(runtime, "free_bytes", lambda: 1 << 40)
    checks = {check["check"]: check for check in ready("doctor", "--json").json["checks"]}
    assert checks["runtime"]["ok"]
    assert ("swap is on" in checks["runtime"]["found"]) == bool(total)


def test_doctor_names_what_production_lacks(ready: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_ENVIRONMENT", "production")
    ended = ready("doctor", "--json")
    checks = {check["check"]: check for check in ended.json["checks"]}
    assert ended.status == 1
    assert not checks["srs"]["ok"]
    assert "ZKSERVE_SRS_PATH" in checks["srs"]["found"]


def test_doctor_goes_on_where_one_thing_is_broken(ready: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZKSERVE_SRS_PATH", "[/nowhere]")
    monkeypatch.setenv("ZKSERVE_SRS_SHA256", "aa" * 32)
    monkeypatch.setenv("ZKSERVE_RPC_URL", "http://127.0.0.1:9")
    for ended in (ready("doctor"), ready("doctor", "--json")):
        assert ended.status == 1
        assert "[/nowhere] is missing" in ended.out
        assert "127.0.0.1 did not answer" in ended.out
        assert "SQLite, up to date" in ended.out


def test_the_chain_is_asked_only_where_one_is_set(ready: Run):
    ended = ready("chain", "deploy")
    assert ended.status == 1
    assert "ZKSERVE_RPC_URL" in ended.err


# publish, predict, verify, status


def test_publishing_what_is_not_there_says_what_to_name(ready: Run):
    ended = ready("publish", "nowhere")
    assert ended.status == 1
    assert "recipe.toml" in ended.err


def test_a_bare_model_needs_samples(ready: Run, tmp_path: Path):
    (tmp_path / "tiny.onnx").touch()
    ended = ready("publish", "tiny.onnx")
    assert ended.status == 1
    assert "--samples" in ended.err


NO_INPUT = [
    (b"", "not JSON"),
    (b"0.1, 0.2", "not JSON"),
    (b"[0.1, NaN]", "not JSON"),
    (b"[Infinity]", "not JSON"),
    (b"[1e400]", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[]", "empty"),
    (b"[[], []]", "empty"),
    (b'{"x": [1]}', "holds a dict"),
    (b'["0.1"]', "holds a str"),
    (b"[null]", "holds a NoneType"),
    (b"[true]", "holds a bool"),
    (b"[1" + b"0" * 400 + b"]", "beyond"),
]


@pytest.mark.parametrize(("given", "said"), NO_INPUT, ids=[said for _, said in NO_INPUT])
def test_what_is_no_input_is_refused_before_anybody_is_asked(
    run: Run, tmp_path: Path, given: bytes, said: str
):
    (tmp_path / "input.json").write_bytes(given)
    for arguments in (["--input", "input.json"], []):
        ended = run("predict", "tiny", *arguments, stdin=given)
        assert ended.status == 1
        assert said in ended.err
        assert "list of numbers" in ended.err
        assert "Traceback" not in ended.err


def test_nested_inputs_are_flattened_in_order(run: Run):
    assert cli.user._flatten([[1, [2.5]], 3, []]) == [1.0, 2.5, 3.0]


def test_an_input_file_there_is_not_is_named(run: Run):
    ended = run("predict", "tiny", "--input", "nowhere.json")
    assert ended.status == 1
    assert "nowhere.json cannot be read" in ended.err


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a port nobody listens on, asked without waiting between attempts."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    return "http://127.0.0.1:9"


def test_a_service_that_is_not_there_is_named(run: Run, deaf: str):
    ended = run("predict", "tiny", "--url", deaf, stdin=b"[1]")
    assert ended.status == 1
    assert deaf in ended.err
    assert "zkserve serve" in ended.err


def receipt(tmp_path: Path) -> str:
    from tests.unit.test_receipt import RECEIPT

    (tmp_path / "receipt.json").write_text(json.dumps(RECEIPT))
    return "receipt.json"


TRUSTED = ["--registry", "0x1", "--version-id", "0x" + "01" * 32]


def test_verifying_against_nothing_says_what_to_name(run: Run, tmp_path: Path):
    ended = run("verify", receipt(tmp_path))
    assert ended.status == 1
    for option in ("--artifacts", "--url", "--rpc-url"):
        assert option in ended.err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ([], "--registry"),
        (["--registry", "0x1"], "--version-id"),
        ([*TRUSTED, "--artifacts", "x"], "--artifacts"),
        ([*TRUSTED, "--url", "x"], "--url"),
        ([*TRUSTED, "--opening", "x"], "--opening"),
        ([*TRUSTED, "--expect-circuit", "0x" + "ee" * 32], "0x" + "ee" * 32),
    ],
)
def test_verifying_on_chain_ignores_no_option(
    run: Run, tmp_path: Path, more: list[str], named: str
):
    ended = run("verify", receipt(tmp_path), "--rpc-url", "http://127.0.0.1:9", *more)
    assert ended.status == 1
    assert named in ended.err


@pytest.mark.parametrize("given", ["", "x", "-1", "0x", str(1 << 256), "1.5"])
def test_what_is_no_version_id_is_refused(run: Run, given: str):
    ended = run("audit", given, "--rpc-url", "http://127.0.0.1:9", "--registry", "0x" + "1" * 40)
    assert ended.status != 0
    assert "version id" in ended.err or "No such option" in ended.err


@pytest.mark.parametrize("given", ["0x" + "0a" * 32, str(int("0a" * 32, 16))])
def test_version_ids_come_in_hex_and_in_decimal(given: str):
    assert _version_number(given) == int("0a" * 32, 16)


@pytest.mark.parametrize("option", ["--registry", "--version-id", "--market"])
def test_verifying_offline_ignores_no_option(run: Run, tmp_path: Path, option: str):
    ended = run("verify", receipt(tmp_path), "--artifacts", str(tmp_path), option, "0x1")
    assert ended.status == 1
    assert "--rpc-url" in ended.err


@pytest.mark.parametrize("text", ["", "receipt", "[]", "null", "{}", '{"valid": true}', "[" * 9999])
def test_what_is_no_receipt_verifies_nothing(run: Run, tmp_path: Path, text: str):
    (tmp_path / "receipt.json").write_text(text)
    ended = run("verify", "receipt.json", "--artifacts", str(tmp_path), "--json")
    assert ended.status == 1
    assert ended.json["error"]["code"] == "invalid-input"
    assert "valid" not in ended.json


def test_an_empty_folder_of_artifacts_verifies_nothing(run: Run, tmp_path: Path):
    ended = run("verify", receipt(tmp_path), "--artifacts", str(tmp_path), "--json")
    assert ended.status == 1
    assert ended.json["error"]["code"] == NotFound.code


def test_each_setting_of_a_help_text_exists():
    """Help names settings by their variables; each must be one."""
    known = {f"ZKSERVE_{name.upper()}" for name in Settings.model_fields} | {"ZKSERVE_API_KEY"}
    for path in COMMANDS:
        text = CliRunner().invoke(cli.app, [*path, "--help"], env=PLAIN).output
        for word in text.replace("=", " ").split():
            name = word.strip("`.,:;()[]│")
            if name.startswith("ZKSERVE_"):
                assert name in known, (path, name)


def test_status_needs_no_key(run: Run, monkeypatch: pytest.MonkeyPatch):
    def refuse(_client: Client) -> None:
        raise Unauthorized("No key.")

    monkeypatch.setattr(Client, "ready", lambda _client: True)
    monkeypatch.setattr(Client, "models", lambda _client: [])
    monkeypatch.setattr(Client, "proofs", refuse)
    ended = run("status", "--json")
    assert ended.status == 0
    assert ended.json == {"ready": True, "models": [], "proofs": []}


def test_each_row_of_a_batch_has_a_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    claim = Claim(
        circuit_id="0x" + "11" * 32, weights="0x" + "22" * 32, input=b"", outputs=(1, 2, 3, 4, 3, 4)
    )
    prediction = Prediction(
        model="tiny",
        version=1,
        values=(1.0, 2.0, 3.0, 4.0),
        outputs=claim.outputs[:4],
        claim=claim,
        development_srs=True,
        proof_id="job",
        batch=3,
        rows=2,
    )
    sent: list[Any] = []

    class Connected:
        def __enter__(self) -> Connected:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, model: str, values: Any, version: int | None) -> Prediction:
            sent.append((model, values, version))
            return prediction

    monkeypatch.setattr(cli.user, "open_client", lambda *_: Connected())
    ended = run("predict", "tiny", stdin=b"[[1, 2], [3, 4]]")
    assert sent == [("tiny", [1.0, 2.0, 3.0, 4.0], None)]
    assert ended.out.splitlines()[:2] == ["values  1, 2", "values  3, 4"]
    told = run("predict", "tiny", "--json", stdin=b"[1, 2, 3, 4]").json
    assert (told["batch"], told["rows"], told["values"]) == (3, 2, [1.0, 2.0, 3.0, 4.0])
