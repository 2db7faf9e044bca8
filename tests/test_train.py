"""train.py as a user runs it: killed, stopped, resumed, and given wrong input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run

from pinnerformer_jax import train
from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import read_record
from pinnerformer_jax.training.state import create

pytestmark = pytest.mark.slow  # a train step compiles

ROOT = Path(__file__).parent.parent

SIGNAL_AT_STEP = """
import os, sys, time
from pathlib import Path
from pinnerformer_jax import train
from pinnerformer_jax.training.metrics_log import Meter

push = Meter.push

def push_then_signal(self, metrics):
    push(self, metrics)
    if self.step == {step}:
        while not list(Path({workdir!r}).glob("checkpoints/[0-9]*")):
            time.sleep(0.01)  # the first checkpoint is still being written
        os.kill(os.getpid(), {number})

Meter.push = push_then_signal
sys.exit(train.main(sys.argv[1:]))
"""


def write_config(path, config):
    text = f"from pinnerformer_jax.config_files import from_dict\n\nconfig = from_dict({to_dict(config)!r})\n"
    path.write_text(text)
    return path


class Project:
    """A prepared log, a config for it, and train.py run on them in processes of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.config = small_run.config(small_run.write_data(folder / "prepared"))
        self.config_file = write_config(folder / "small.py", self.config)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XLA_FLAGS", "JAX_COMPILATION"))
        }
        self.environment = kept | {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
        }

    def run(self, name, *overrides, signal_at=None):
        """Run train.py; with `signal_at` = (step, number) it is sent that signal once the step is read."""
        script = ["train.py"]
        if signal_at:
            step, number = signal_at
            workdir = str(self.folder / name)
            script = [
                "-c",
                SIGNAL_AT_STEP.format(step=step, number=int(number), workdir=workdir),
            ]
        command = [sys.executable, *script, "--config", self.config_file, "--workdir", self.folder / name]
        return subprocess.run(
            [*command, *overrides], env=self.environment, cwd=ROOT, capture_output=True, text=True
        )

    def state(self, name):
        """What the last checkpoint holds."""
        abstract = jax.eval_shape(lambda: create(self.config, read_record(self.folder / name).sizes)[1])
        with Checkpoints(self.folder / name) as checkpoints:
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            return jax.device_get(checkpoints.restore(abstract, device))

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    done = project.run("whole")
    assert done.returncode == 0, done.stderr
    project.output = done.stdout
    return project


def assert_same_run(project, name):
    jax.tree.map(np.testing.assert_array_equal, project.state(name), project.state("whole"))
    timings = {"users_per_second", "tokens_per_second", "input_wait_share", "sha256"}  # of the line with them

    def curve(name):
        return [{k: v for k, v in line.items() if k not in timings} for line in project.lines(name)]

    assert curve(name) == curve("whole")


def test_the_config_and_the_cost_are_shown(project):
    assert "training.batch_size: 512 -> 16" in project.output
    assert "8,412 parameters\ntrain step compiled in" in project.output
    assert "step 12/12: loss" in project.output
    assert (
        json.loads((project.folder / "whole" / "config.json").read_text())["config"]["model"]["width"] == 16
    )


def test_programs_are_kept_for_the_next_start(project):
    assert list((project.folder / "cache").glob("pinnerformer_jax/programs-*/jit_device_step-*"))


def test_input_from_processes_gives_the_same_run(project):
    # In a process without checked annotations: Grain cannot pickle the methods that they wrap.
    done = project.run("workers", "--training.input-workers", "2")
    assert done.returncode == 0, done.stderr
    assert_same_run(project, "workers")


def test_killed_between_checkpoints_it_resumes_bit_for_bit(project):
    killed = project.run("killed", signal_at=(11, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    assert max(line["step"] for line in project.lines("killed")) == 10
    resumed = project.run("killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step " in resumed.stdout
    assert_same_run(project, "killed")


def test_stopped_it_saves_exits_with_0_and_resumes_bit_for_bit(project):
    stopped = project.run("stopped", signal_at=(5, signal.SIGTERM))
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped after step 6, which is saved; resume with the same command" in stopped.stdout
    assert project.state("stopped").step == 6
    assert project.run("stopped").returncode == 0
    assert_same_run(project, "stopped")


@pytest.fixture
def program(monkeypatch):
    """The verb, without what it sets for the whole process."""
    monkeypatch.setattr(train, "set_up_process", lambda: None)
    return train


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--training.steps", "20"], "training.steps: 12 -> 20"),
        (["--model.width", "32", "--model.heads", "4"], "model.width: 16 -> 32"),
        (["--training.steps", "0"], "training.steps = 0: must be >= 1"),
        (["--training.batch-size", "many"], "many"),
        (["--no-such-setting", "1"], "no-such-setting"),
        (["--data.prepared", "elsewhere"], "run python -m pinnerformer_jax.ingest"),
        (["--config", "configs/none.py"], "configs/none.py: no such config file"),
    ],
)
def test_wrong_input_exits_with_2_and_says_what(program, project, capsys, overrides, message):
    command = ["--config", str(project.config_file), "--workdir", str(project.folder / "whole")]
    with pytest.raises(SystemExit) as stop:
        program.main([*command, *overrides])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_second_training_in_the_same_workdir_is_refused(program, project, capsys):
    workdir = project.folder / "locked"
    with folder_lock(workdir), pytest.raises(SystemExit) as ended:
        program.main(["--config", str(project.config_file), "--workdir", str(workdir)])
    assert ended.value.code == 2
    assert f"error: {workdir}: another run is writing here" in capsys.readouterr().err
    assert [file.name for file in workdir.iterdir()] == ["LOCK"]


def test_without_a_workdir_it_says_so(program, project, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--config", str(project.config_file)])
    assert stop.value.code == 2
    assert "--workdir" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_exits_with_1(program, project, monkeypatch, capsys):
    def fail(run, state):
        raise program.TrainingError("step 5: the loss is not finite")

    monkeypatch.setattr(program, "train", fail)
    command = ["--config", str(project.config_file), "--workdir", str(project.folder / "failed")]
    assert program.main(command) == 1
    assert capsys.readouterr().err == "error: step 5: the loss is not finite\n"
