import jax
import jax.numpy as jnp

from pinnerformer_jax.bench.timing import LEAST, TraceCount, _timing, alternate


def test_takes_turns_after_one_call_each_to_warm_up():
    calls = []
    timings = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0)
    assert "".join(calls) == "ab" * (1 + LEAST)
    assert all(timing.repeats == LEAST for timing in timings.values())


def test_repeats_end_with_the_time_or_at_the_most():
    assert alternate({"quick": lambda: None}, seconds=60)["quick"].repeats == 200


def test_median_and_quartiles():
    timing = _timing([4.0, 1.0, 2.0, 3.0, 100.0])
    assert timing == (3.0, 2.0, 4.0, 5)
    assert timing.milliseconds() == {"ms": 3000.0, "ms_quartiles": [2000.0, 4000.0], "repeats": 5}


def test_traces_are_counted_only_inside():
    function = jax.jit(lambda x: x + 1)
    with TraceCount() as first:
        function(jnp.zeros(3))
    with TraceCount() as again:
        function(jnp.zeros(3))
    with TraceCount() as other_shape:
        function(jnp.zeros(4))
    assert first.traces >= 1
    assert again.traces == 0
    assert other_shape.traces >= 1
