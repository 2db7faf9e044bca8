"""The command `pinnerformer` and its overview."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pinnerformer_jax
from pinnerformer_jax import __main__ as command

PACKAGE = Path(pinnerformer_jax.__file__).parent


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command; its exit code and what it printed to stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pinnerformer", *arguments])
        code = command.main()
        return code, *capsys.readouterr()

    return run


def test_every_module_that_is_a_verb_is_listed():
    programs = {path.stem for path in PACKAGE.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    programs |= {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    assert programs - {"__main__"} == set(command.VERBS)
    assert not [
        path for path in PACKAGE.glob("*/[!_]*.py") if 'if __name__ == "__main__"' in path.read_text()
    ]


def test_the_overview_has_a_line_a_verb(call):
    code, printed, _ = call("--help")
    assert (code, printed) == call()[:2]
    assert code == 0
    for verb in command.VERBS:
        assert f"\n    {verb} " in printed
        assert command.summary(verb) in printed
        assert len(command.summary(verb)) > 20


def test_the_overview_imports_no_library():
    script = (
        "import sys; sys.argv = ['pinnerformer']; from pinnerformer_jax.__main__ import main; main(); "
        "print({'jax', 'numpy', 'tyro', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("verb", command.VERBS)
def test_a_verb_gets_its_arguments_and_gives_its_exit_code(call, monkeypatch, verb):
    module = importlib.import_module(
        f"pinnerformer_jax.{verb}.__main__" if (PACKAGE / verb).is_dir() else f"pinnerformer_jax.{verb}"
    )
    seen = []
    monkeypatch.setattr(module, "main", lambda: seen.append(list(sys.argv)) or 3)
    assert call(verb, "--config", "x")[0] == 3
    assert seen == [[f"pinnerformer {verb}", "--config", "x"]]


def test_a_verb_without_an_exit_code_is_a_success(call, tmp_path):
    code, printed, _ = call("synthetic", "--out", str(tmp_path), "--users", "20", "--days", "30")
    assert code == 0
    assert f"20 users in {tmp_path}/events.parquet" in printed


def test_version_and_wrong_verbs(call):
    assert call("--version")[1] == f"{pinnerformer_jax.__version__}\n"
    code, _, error = call("trian")
    assert code == 2
    assert "trian: no such verb" in error


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_the_scripts_of_the_checkout_are_the_verbs(verb):
    script = PACKAGE.parent / f"{verb}.py"
    done = subprocess.run([sys.executable, script, "--workdir"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"usage: {verb}.py --" in done.stderr
