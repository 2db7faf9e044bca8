"""The pace is that of training alone, and a resumed curve has no step twice."""

import json
import struct

import jax.numpy as jnp
import pytest

from pinnerformer_jax.evaluation.report import read_losses
from pinnerformer_jax.training import metrics_log
from pinnerformer_jax.training.metrics_log import Meter, MetricsLog, StepMetrics

TRAINED = StepMetrics(
    gradient_norm=1, learning_rate=0.1, loss=2.0, negatives=9, pairs=3, temperature=0.1, tokens=30, users=8,
    users_per_second=100.0, tokens_per_second=900.0, input_wait_share=0.0,
)  # fmt: skip


class Clock:
    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(metrics_log, "time", clock)
    return clock


def of_step(loss, failed=-1):
    floats = {"gradient_norm": 1.0, "learning_rate": 1e-3, "loss": loss, "temperature": 0.1}
    counts = {"negatives": 9, "pairs": 3, "tokens": 30, "users": 8, "failed_step": failed}
    return {name: jnp.float32(value) for name, value in floats.items()} | {
        name: jnp.int32(value) for name, value in counts.items()
    }


def test_a_step_is_read_when_the_next_is_dispatched(clock):
    meter = Meter(batch_size=8, step=10)
    meter.start()
    meter.push(of_step(1.0))
    assert (meter.step, meter.take()) == (10, None)
    meter.push(of_step(3.0))
    assert meter.step == 11
    meter.flush()
    assert meter.step == 12
    clock.now += 1
    assert meter.take().loss == 2.0


def test_only_training_is_timed(clock):
    meter = Meter(batch_size=8, step=0)
    clock.now += 50  # compiling
    meter.start()
    meter.push(of_step(1.0))
    clock.now += 3
    meter.waited(1.0)
    meter.flush()
    meter.pause()
    clock.now += 50  # validating
    meter.start()
    meter.push(of_step(1.0))
    clock.now += 1
    meter.flush()
    values = meter.take()
    assert values.users_per_second == 2 * 8 / 4
    assert values.tokens_per_second == 2 * 30 / 4
    assert values.input_wait_share == 1 / 4
    clock.now += 2
    meter.push(of_step(1.0))
    meter.flush()
    assert meter.take().users_per_second == 8 / 2  # counted from the last line on


def test_a_step_that_failed_is_known_by_number():
    meter = Meter(batch_size=8, step=0)
    meter.push(of_step(float("nan"), failed=7))
    assert meter.failed_step == -1
    meter.flush()
    assert meter.failed_step == 7


def write(workdir, step, lines):
    with MetricsLog(workdir, step, steps=10, batch_size=8) as log:
        for at in lines:
            log.write(at, TRAINED)


def steps_of(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_lines_past_the_checkpoint_are_dropped_on_resume(tmp_path):
    write(tmp_path, 0, [2, 4, 6])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # cut short by a kill
    write(tmp_path, 4, [6, 8])
    assert steps_of(tmp_path) == [2, 4, 6, 8]


def test_a_damaged_line_is_named_on_resume_and_left_out_of_the_curve(tmp_path, capsys):
    write(tmp_path, 0, [2, 4, 6])
    file = tmp_path / "metrics.jsonl"
    before = file.read_bytes()
    second = before.index(b"\n") + 1
    key = before.index(b'"sha256"', second)
    for place in range(second, before.index(b"\n", second)):  # each byte of the second line
        if key < place < key + 7:  # then its values are as they were
            continue
        file.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        assert [line["step"] for line in read_losses(file)] == [2, 6]
        assert f"{file}: 1 damaged lines are not in" in capsys.readouterr().err
    with pytest.raises(ValueError, match=rf"{file} line 2 is damaged: delete the line"):
        write(tmp_path, 6, [8])
    file.write_bytes(before)
    assert [line["step"] for line in read_losses(file)] == [2, 4, 6]
    assert capsys.readouterr().err == ""


def test_a_run_that_starts_anew_starts_an_empty_curve(tmp_path):
    write(tmp_path, 0, [2, 4])
    write(tmp_path, 0, [2])
    assert steps_of(tmp_path) == [2]


def test_no_steps_give_no_line(tmp_path):
    with MetricsLog(tmp_path, 0, steps=10, batch_size=8) as log:
        log.write(0, None)
    assert steps_of(tmp_path) == []


def test_people_get_loss_pace_and_time_left(tmp_path, capsys):
    write(tmp_path, 0, [2])
    assert "step 2/10: loss 2.0000, 100 users/s, 900 tokens/s, 0:00:01 left" in capsys.readouterr().out


def events_of(workdir):
    """The events of all TensorBoard files: records of a length, a checksum, the bytes and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted((workdir / "tensorboard").iterdir()):
        rest = file.read_bytes()
        while rest:
            (length,) = struct.unpack("<Q", rest[:8])
            yield Event.FromString(rest[12 : 12 + length])
            rest = rest[16 + length :]


def test_tensorboard_files_hold_the_curve(tmp_path):
    write(tmp_path, 0, [2, 4])
    values = [(e.step, v.tag, v.simple_value) for e in events_of(tmp_path) for v in e.summary.value]
    assert [(step, value) for step, tag, value in values if tag == "loss"] == [(2, 2.0), (4, 2.0)]


def test_tensorboard_is_told_what_a_resume_takes_back(tmp_path):
    write(tmp_path, 0, [2, 4, 6])
    write(tmp_path, 4, [6])
    starts = [event.step for event in events_of(tmp_path) if event.session_log.status == 1]
    assert starts[-1] == 5


def test_tensorboard_forgets_a_run_that_had_no_checkpoint(tmp_path):
    write(tmp_path, 0, [2, 4])
    write(tmp_path, 0, [2])
    starts = [event.step for event in events_of(tmp_path) if event.session_log.status == 1]
    assert starts[-1] == 1
