"""Help texts mention what matters; a mistake ends with one line that says what to do."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from spillway.cli.main import app
from spillway.controller.settings import OperatorSettings

WIDE = {"COLUMNS": "400", "TERMINAL_WIDTH": "400", "NO_COLOR": "1"}


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env=WIDE).invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_help_names_every_command() -> None:
    status, text, _ = run("--help")
    assert status == 0
    for word in ("operator", "gateway", "gateway-drain", "explain", "simulate", "kubectl spillway"):
        assert word in text


def test_no_command_shows_the_help() -> None:
    _, text, errors = run()
    assert "explain" in text + errors


def test_operator_help_names_every_setting_with_its_variable_and_default() -> None:
    status, text, _ = run("operator", "--help")
    assert status == 0
    for field, info in OperatorSettings.model_fields.items():
        assert f"--{field.replace('_', '-')}" in text
        assert ("POD_NAME" if field == "pod_name" else f"SPILLWAY_{field.upper()}") in text
        default = "Default: host name and process id" if field == "pod_name" else f"[default: {info.default}]"
        assert default in text or info.default == "", field
    assert "KUBECONFIG" in text


def test_explain_help_has_an_example() -> None:
    assert "kubectl spillway explain glm-5 -n chat" in run("explain", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--tick-seconds", "0"], "--tick-seconds is 0.0"),
        (["--ads-port", "70000"], "--ads-port is 70000"),
        (
            ["--lease-deadline-seconds", "20"],
            "--lease-deadline-seconds is 20.0: must be below --lease-duration-seconds",
        ),
        (["--lease-retry-seconds", "12"], "--lease-retry-seconds is 12.0: must be below --lease-deadline-seconds"),
        (["--log-level", "loud"], "--log-level is 'loud': use one of debug, info, warning, error"),
    ],
)
def test_a_bad_value_gives_one_line_that_names_the_flag(arguments: list[str], flag: str) -> None:
    status, _, errors = run("operator", *arguments)
    assert status == 2
    [told] = errors.strip().splitlines()
    assert flag in told


def test_an_unknown_flag_is_named() -> None:
    status, _, errors = run("operator", "--tick-second", "3")
    assert status == 2
    assert "--tick-second" in errors
    assert "--tick-seconds" in errors


def test_a_gateway_without_its_settings_says_which() -> None:
    result = CliRunner(env=dict.fromkeys(("POD_NAME", "POD_IP", "SPILLWAY_ADS_ADDRESS"))).invoke(app, ["gateway"])
    assert result.exit_code == 2
    [told] = result.stderr.strip().splitlines()
    assert told.startswith("spillway gateway: set ")
