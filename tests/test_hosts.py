"""Training by several processes: the results of one, a stop of all, an end of all when one dies."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import small_run
from jax.sharding import SingleDeviceSharding

from pinnerformer_jax.config_files import to_dict
from pinnerformer_jax.files import folder_lock
from pinnerformer_jax.training import hosts
from pinnerformer_jax.training.checkpoint import Checkpoints
from pinnerformer_jax.training.run_record import read_record
from pinnerformer_jax.training.state import create

ROOT = Path(__file__).parent.parent
DEVICES = 4

# Trains, and writes the rows of the batches that this process read, and what it was told to print.
TRAIN = """
import os, sys, time
from pathlib import Path
from pinnerformer_jax import train
from pinnerformer_jax.data.windows import Windows
from pinnerformer_jax.training import hosts

hosts.SILENCE, hosts.BEAT = 6, 1
folder, own = Path(sys.argv[1]), Windows.with_lengths

def counted(self, step):
    batch, lengths = own(self, step)
    with open(folder / f"rows-{os.getpid()}", "a") as file:
        file.write(f"{len(batch.length)} {len(lengths)}\\n")
    return batch, lengths

def slowly(self, step):
    time.sleep(float(os.environ["WAIT"]))
    return after(self, step)

after, hosts.Stop.after = hosts.Stop.after, slowly
Windows.with_lengths = counted
sys.exit(train.main(sys.argv[2:]))
"""


class Training:
    """train.py on small data, by any number of processes with four devices together."""

    def __init__(self, folder):
        self.folder = folder
        config = small_run.config(small_run.write_data(folder / "prepared"))
        self.config = folder / "small.py"
        self.config.write_text(
            f"from pinnerformer_jax.config_files import from_dict\nconfig = from_dict({to_dict(config)!r})\n"
        )

    def start(self, name, processes, *settings, wait=0.0):
        """The processes, started."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // processes}",
            "JAX_PLATFORMS": "cpu",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "WAIT": str(wait),
        }
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        rows = self.folder / f"rows-{name}-{processes}"
        rows.mkdir(exist_ok=True)
        command = [sys.executable, "-c", TRAIN, str(rows), "--config", str(self.config)]
        command += ["--workdir", str(self.folder / name), *settings]
        return [
            subprocess.Popen(
                [*command, "--hosts", address, "--host-count", str(processes), "--host-index", str(index)]
                if processes > 1
                else command,
                env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for index in range(processes)
        ]  # fmt: skip

    def run(self, name, processes, *settings):
        """Train to the end; what the processes printed."""
        return [ended(process) for process in self.start(name, processes, *settings)]

    def rows(self, name, processes):
        """(rows read, rows of the batch) of each batch, a list a process."""
        files = (self.folder / f"rows-{name}-{processes}").iterdir()
        return [[tuple(map(int, line.split())) for line in file.read_text().splitlines()] for file in files]

    def state(self, name):
        record = read_record(self.folder / name)
        abstract = jax.eval_shape(lambda: create(record.config, record.sizes)[1])
        with Checkpoints(self.folder / name, read_only=True) as checkpoints:
            return jax.device_get(checkpoints.restore(abstract, SingleDeviceSharding(jax.devices()[0])))

    def losses(self, name):
        lines = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        return {
            (line["step"], key): line[key]
            for line in lines
            for key in ("loss", "validation_loss")
            if key in line
        }


def ended(process, code=0):
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out, error


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    made = Training(tmp_path_factory.mktemp("hosts"))
    made.run("one", 1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), ("--training.shard-items",)], ids=["whole", "sharded"])
def test_two_processes_train_as_one(training, settings):
    name = "two" + "-sharded" * bool(settings)
    (first, _), (second, _) = training.run(name, 2, *settings)
    assert "train step" in first
    assert "step 12" in first
    assert "step" not in second
    for mine in training.rows(name, 2):
        assert set(mine) == {(8, 16)}  # half of each batch, also of those of validation
    assert set(training.rows("one", 1)[0]) == {(16, 16)}
    assert training.losses(name) == pytest.approx(training.losses("one"), rel=1e-5)
    assert_close(training.state(name), training.state("one"))


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_other_numbers_of_processes_go_on(training):
    processes = training.start("stopped", 2, wait=1.0)
    wait_for_checkpoint(training.folder / "stopped", processes)
    for one in (child_of(processes[1].pid), processes[1].pid):  # as Slurm does, to all that belong to it
        os.kill(one, signal.SIGTERM)
    first, _ = [ended(process) for process in processes]
    assert "which is saved" in first[0]
    stopped = int(training.state("stopped").step)
    assert 4 <= stopped < 12
    for processes in (1, 4):
        name = f"stopped-{processes}"
        shutil.copytree(training.folder / "stopped", training.folder / name)
        assert "resuming after step" in training.run(name, processes)[0][0]
        assert_close(training.state(name), training.state("one"))


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_is_killed_each_says_so(training, dies):
    name = f"killed-{dies}"
    processes = training.start(name, 2, wait=1.0)
    wait_for_checkpoint(training.folder / name, processes)
    os.kill(child_of(processes[dies].pid), signal.SIGKILL)
    messages = [ended(process, code=1)[1].splitlines()[-1] for process in processes]
    assert all("the checkpoint of step " in message for message in messages)
    assert f"process {dies} of 2 ends: it was killed by SIGKILL" in messages[dies]
    assert f"process {1 - dies} of 2 ends: process {dies} has ended: killed by SIGKILL" in messages[1 - dies]
    training.run(name, 1)
    assert_close(training.state(name), training.state("one"))


@pytest.mark.slow
def test_when_a_machine_is_lost_the_others_end_and_say_so(training):
    processes = training.start("lost", 2, wait=1.0)
    wait_for_checkpoint(training.folder / "lost", processes)
    processes[1].kill()  # the parent, and with it the child
    assert "process 0 of 2 ends" in ended(processes[0], code=1)[1].splitlines()[-1]
    processes[1].communicate()


@pytest.mark.slow
def test_an_error_of_the_first_ends_the_others(training):
    with folder_lock(training.folder / "taken"):
        first, second = training.start("taken", 2)
        assert "another run is writing here" in ended(first, code=2)[1]
        assert "process 0 has ended" in ended(second, code=1)[1]


def child_of(parent):
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def wait_for_checkpoint(workdir, processes):
    end = time.monotonic() + 300
    while not any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("auto", 2, None), "leave --host-count and --host-index out"),
        (("10.0.0.1:1234", None, 0), "--host-count N"),
        (("10.0.0.1:1234", 2, 2), "--host-index 0 to N - 1"),
        (("nowhere", 2, 0), "ADDRESS:PORT of process 0"),
    ],
)
def test_wrong_use_is_a_message(arguments, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(*arguments)


SUPERVISED = """
import os, signal, sys, time
from pathlib import Path
from pinnerformer_jax.training.supervisor import supervised

def training(tell):
    tell(0, 2)
    if sys.argv[2] == "aborts":
        os.abort()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    print(os.getpid(), flush=True)
    time.sleep(900)

sys.exit(supervised(Path(sys.argv[1]), training))
"""


def start_supervised(workdir, what=""):
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(workdir), what],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_parent_of_a_killed_process_has_the_message(tmp_path):
    (tmp_path / "checkpoints/40").mkdir(parents=True)
    parent = start_supervised(tmp_path)
    os.kill(int(parent.stdout.readline()), signal.SIGKILL)
    error = ended(parent, code=1)[1]
    assert error == (
        "error: process 0 of 2 ends: it was killed by SIGKILL; the checkpoint of step 40 is kept, and the "
        "same commands go on\n"
    )
    assert (tmp_path / "hosts/0").read_text() == "ended: killed by SIGKILL"  # for the others
    (tmp_path / "hosts/1").write_text("ended: killed by SIGKILL")
    error = ended(start_supervised(tmp_path, "aborts"), code=1)[1]
    assert "process 1 has ended: killed by SIGKILL, so that JAX aborted this one (SIGABRT)" in error


def test_signals_reach_the_process_and_it_ends_with_its_parent(tmp_path):
    parent = start_supervised(tmp_path)
    parent.stdout.readline()
    parent.terminate()
    ended(parent, code=7)
    parent = start_supervised(tmp_path)
    parent.stdout.readline()
    parent.kill()
    ended(parent, code=-signal.SIGKILL)  # waits until the child, which also holds the pipes, has ended


LATE = """
import os, sys, time
import jax, numpy as np
from pinnerformer_jax.training import hosts

index = int(sys.argv[2])
hosts.join(sys.argv[1], 2, index)
jax.devices()
time.sleep(35 * (index == 0))
print(int(hosts.of_first(np.int32(5 + index))))
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_processes_wait_for_one_that_is_late():  # JAX's first exchange between CPUs waits for 30 seconds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LATE, address, str(index)],
            env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    assert all("5" in ended(process)[0].splitlines() for process in processes)
