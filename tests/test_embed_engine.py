"""Users embedded by an engine: the state has the bytes of one run, also if a worker dies."""

import os
import shutil
import signal
import sys
from importlib.util import find_spec

import pytest
from daily_run import ROWS, TRAINED, contents, day, make_run, publish, write_log

from pinnerformer_jax import embed
from pinnerformer_jax.serving import part_engines, snapshot, state, users
from pinnerformer_jax.serving.part_engines import run_in_parts
from pinnerformer_jax.serving.plan import Job
from pinnerformer_jax.workers import Call, by_processes

# Ray forks to start its processes; the verb uses no device before.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
embed_part = part_engines._part


@pytest.fixture(scope="module")
def run_of_rows(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), ROWS)


@pytest.fixture
def ray(monkeypatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Ray's workers import this file
    yield ray
    ray.shutdown()


def dying_part(job, part, count, gpus):
    """What a worker does here: groups are small, and the first worker kills itself after its first."""
    snapshot.GROUP = 8
    lines = embed_part(job, part, count, gpus)
    if part == 0:
        yield next(lines)
        flag = job.snapshots.with_name("died")
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return (yield from lines)


def check_bytes(engine, workdir, folder, monkeypatch):
    """Run the engine with two workers of which one dies; what was said, sorted."""
    monkeypatch.setattr(snapshot, "GROUP", 8)
    job = {"date": day(TRAINED - 1)}
    name = publish(workdir, folder / "one", **job)
    monkeypatch.setattr(part_engines, "_part", dying_part)
    monkeypatch.setattr(users, "embed_histories", None)  # this process must embed nobody
    said = []
    assert run_in_parts(Job(workdir, folder / "many", **job), engine, 2, report=said.append) == name
    assert (folder / "died").exists()
    assert contents(folder / "many" / name) == contents(folder / "one" / name)
    assert state.current(folder / "many") == name
    assert not (folder / "many.parts").exists()
    assert said[0] == "embedding in 2 parts, each on CPU"
    assert sum(line.startswith("2 of 2 parts (") for line in said) == 1
    return sorted(line for line in said if line.startswith("part "))


@pytest.mark.slow
def test_processes_give_the_bytes_of_one_run(run_of_rows, tmp_path, monkeypatch):
    assert check_bytes("processes", run_of_rows, tmp_path, monkeypatch) == [
        "part 1/2 failed: its process ended with code -9; running it again",
        "part 1/2: group 0 of 5: 8 users",
        "part 1/2: group 0 of 5: made before",
        "part 1/2: group 2 of 5: 8 users",
        "part 1/2: group 4 of 5: 1 users",
        "part 2/2: group 1 of 5: 8 users",
        "part 2/2: group 3 of 5: 8 users",
    ]


@pytest.mark.slow
@needs_ray
def test_ray_gives_the_bytes_of_one_run(run_of_rows, tmp_path, monkeypatch, ray):
    first, *others = check_bytes("ray", run_of_rows, tmp_path, monkeypatch)
    # What a worker said just before it died may be lost.
    assert first in ("part 1/2: group 0 of 5: 8 users", "part 1/2: group 0 of 5: made before")
    assert others == [
        "part 1/2: group 2 of 5: 8 users",
        "part 1/2: group 4 of 5: 1 users",
        "part 2/2: group 1 of 5: 8 users",
        "part 2/2: group 3 of 5: 8 users",
    ]
    with pytest.raises(ValueError, match="--gpus 3: no machine of the cluster has so many GPUs"):
        run_in_parts(Job(run_of_rows, tmp_path / "many"), "ray", gpus=3)


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_no_cluster_at_the_address(address, tmp_path):
    with pytest.raises(ValueError, match=f"--ray-address {address}: nothing answers there"):
        run_in_parts(Job(tmp_path, tmp_path, date=day(1)), "ray", ray_address=address)


@pytest.mark.slow
@needs_ray
def test_a_worker_of_ray_whose_jax_has_no_gpu(run_of_rows, tmp_path, ray):
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    said = []
    with pytest.raises(
        ValueError, match=r"JAX finds no GPU on .*: pip install 'pinnerformer_jax\[gpu\]' there"
    ):
        run_in_parts(Job(run_of_rows, tmp_path / "states"), "ray", report=said.append)
    assert said == ["embedding in 2 parts, each with 1 GPU"]
    assert not (tmp_path / "states").exists()


@pytest.mark.slow
def test_where_active_users_alone_are_embedded_one_process_is_enough(run_of_rows, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    publish(run_of_rows, one, date=day(TRAINED - 1))
    shutil.copytree(one, many)
    job = {"date": day(TRAINED), "events": (write_log(tmp_path, ROWS, TRAINED),)}
    name, said = publish(run_of_rows, one, **job), []
    assert run_in_parts(Job(run_of_rows, many, **job), "processes", gpus=0, report=said.append) == name
    assert said[1] == "only the users with new events are embedded, for which this process is enough"
    assert contents(many / name) == contents(one / name)


def visible():
    yield os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.slow
def test_each_process_sees_its_own_gpus():
    said = []
    places = [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    assert list(by_processes([Call("looks", visible, ())] * 2, said.append, places)) == [None, None]
    assert sorted(said) == ["0,1", "2,3"]


@pytest.mark.parametrize(
    ("asked", "gpus_of_each", "parts"),
    [((None, None), ["3", "5", "6"], 3), ((7, 1), ["3", "5", "6"], 7), ((None, 2), ["3,5"], 1)],
)
def test_who_gets_which_gpus(tmp_path, monkeypatch, asked, gpus_of_each, parts):
    monkeypatch.setattr(part_engines, "_own_gpus", lambda report: ["3", "5", "6"])
    monkeypatch.setattr(part_engines, "run", lambda job, report: "state")
    given = []

    def by_processes(calls, report, places):
        given.append((calls, places))
        yield from [True] * len(calls)

    monkeypatch.setattr(part_engines, "by_processes", by_processes)
    workers, gpus = asked
    job = Job(tmp_path, tmp_path, date=day(1), store=f"lmdb:{tmp_path}")
    assert run_in_parts(job, "processes", workers, gpus=gpus, report=lambda line: None) == "state"
    [(calls, places)] = given
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == gpus_of_each
    assert {call.arguments[0].store for call in calls} == {None}
    assert [call.arguments[1:] for call in calls] == [(part, parts, gpus or 1) for part in range(parts)]
    with pytest.raises(ValueError, match="--gpus 4: more than the 3 GPUs that JAX finds on this machine"):
        run_in_parts(job, "processes", gpus=4)


def test_how_many_parts_a_machine_has_room_for():
    machine = {"CPU": 3.0, "GPU": 8.0}
    assert [part_engines._parts_on(machine, gpus) for gpus in (0, 1, 2, 4, 9)] == [1, 3, 3, 2, 0]
    assert part_engines._parts_on({"memory": 1e9}, 0) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--engine ray --part 1/2", "--part embeds one share here; --engine embeds all of them"),
        ("--engine ray --rollback", "--rollback embeds nothing: without --engine"),
        ("--gpus 1", "--gpus goes with --engine"),
        ("--engine ray --gpus -1", "'-1' is no whole number"),
        ("--workers 2", "--workers and --ray-address go with --engine"),
        ("--engine processes --ray-address x", "--ray-address goes with --engine ray"),
    ],
)
def test_flags_that_do_not_go_together(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        embed.main(["--snapshots", "x", "--workdir", "x", *flags.split()])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed")
def test_without_ray_one_line_says_what_to_install(run_of_rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(embed, "set_up_process", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        embed.main(["--snapshots", str(tmp_path), "--workdir", str(run_of_rows), "--engine", "ray"])
    assert stopped.value.code == 2
    message = "error: --engine ray needs Ray: pip install 'pinnerformer_jax[ray]'\n"
    assert capsys.readouterr().err == message
