"""The command line of all verbs."""

import argparse

import pytest

from pinnerformer_jax.command_line import errors_as_messages, parse

CONFIG = """
from pinnerformer_jax.config import Config, DataConfig, PositiveRule
positives = (PositiveRule("x"), PositiveRule("y"))
config = Config(name="mine", data=DataConfig(events=("a", "b"), positives=positives))
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    return str(tmp_path / "config.py")


def workdir_flag():
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--workdir", help="where the run lives")
    return flags


def test_the_file_is_the_default_and_flags_override_it(file):
    _, config = parse("", ["--model.width", "64", "--config", file, "--data.positives.1.min-duration", "10"])
    assert (config.name, config.data.events, config.model.width) == ("mine", ("a", "b"), 64)
    assert [(rule.action, rule.min_duration) for rule in config.data.positives] == [("x", 0.0), ("y", 10.0)]


def test_lists_underscores_and_switches(file):
    _, config = parse(
        "",
        ["--config", file, "--data.events", "p", "q", "r", "--model.strictly_causal", "--objective.no-logq"],
    )
    assert config.data.events == ("p", "q", "r")
    assert config.model.strictly_causal
    assert not config.objective.logq


def test_a_verbs_own_flags(file):
    values, config = parse("", ["--config", file, "--workdir", "runs/a", "--name", "other"], workdir_flag())
    assert (values.workdir, config.name) == ("runs/a", "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config FILE is needed"),
        (["--config"], "expected one argument"),
        (["--config", "none.py"], "none.py: no such config file"),
        (["--config", "CONFIG", "--data.evnts", "x"], "--data.events"),  # the nearest is named
        (["--config", "CONFIG", "--model.width", "wide"], "--model.width"),
        (["--config", "CONFIG", "--data.time-unit", "h"], "--data.time-unit"),
        (["--config", "CONFIG", "--data.evaluation-share", "2"], "data.evaluation_share = 2.0"),
        (["--conf", "CONFIG"], "--config FILE is needed"),
    ],
)
def test_wrong_usage_ends_with_code_2(file, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        parse("", [file if argument == "CONFIG" else argument for argument in arguments])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert message in output.out + output.err
    assert "Traceback" not in output.out + output.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings = 1", "must define `config = Config(...)`"),
        ("config = {}", "must define `config = Config(...)`, found dict"),
        (
            "from pinnerformer_jax.config import *\nconfig = Config(model=ModelConfig(width=10))",
            "model.width = 10: must be a multiple of heads = 8",
        ),
    ],
)
def test_wrong_config_files(tmp_path, capsys, text, message):
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        parse("", ["--config", str(tmp_path / "config.py")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_explains_the_verb_and_all_settings(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("Does a thing.", ["--help"], workdir_flag())
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    for part in (
        "Does a thing.",
        "--config FILE",
        "where the run lives",
        "--data.time-zone",
        "(default: UTC)",
    ):
        assert part in output


@pytest.mark.parametrize(
    "error", [ValueError("field = 3: too small"), FileNotFoundError("x.csv: no such file")]
)
def test_wrong_input_is_a_message(capsys, error):
    with pytest.raises(SystemExit) as stopped, errors_as_messages():
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), errors_as_messages():
        raise KeyError("bug")
