import jax
import jax.numpy as jnp
import numpy as np
import small
from flax import nnx

from pinnerformer_jax.data.contracts import DAY, EPOCH
from pinnerformer_jax.model import features
from pinnerformer_jax.model.features import ABSOLUTE_PERIODS, RELATIVE_PERIODS, ActionEncoder, angles, times


def test_periods_are_the_papers():
    assert (ABSOLUTE_PERIODS / 3600).tolist() == [0.25, 0.5, 1, 2, 4, 8, 16, 24, 168, 672, 8760]
    assert len(RELATIVE_PERIODS) == 32
    assert RELATIVE_PERIODS[0] == 1
    assert RELATIVE_PERIODS[-1] == 28 * DAY
    np.testing.assert_allclose(RELATIVE_PERIODS[10:], np.geomspace(1, 28 * DAY, 32)[10:], rtol=0.01)


def test_phases_of_2026_are_exact():
    # float32 seconds since 1970 are 128 s apart in 2026: the phase of a quarter of an hour would be noise.
    seconds = np.random.default_rng(0).integers(1_767_225_600, 1_798_761_600, (4, 500))
    got = angles(jnp.asarray((seconds - EPOCH).astype(np.int32)), ABSOLUTE_PERIODS)
    exact = 2 * np.pi * np.modf(seconds[:, :, None] / ABSOLUTE_PERIODS.astype(np.float64))[0]
    np.testing.assert_allclose(got, exact, atol=2e-6)


def test_three_times_of_each_action():
    batch = small.batch()
    absolute, before_latest, gap = times(batch.history, batch.length, strictly_causal=False)
    row, last = 3, int(batch.length[3]) - 1
    time = np.asarray(batch.history.time)[row, : last + 1]
    np.testing.assert_array_equal(absolute[row, : last + 1], time)
    np.testing.assert_array_equal(before_latest[row, : last + 1], time[-1] - time)
    np.testing.assert_array_equal(gap[row, : last + 1], np.diff(time, prepend=time[0]))
    assert not np.any(times(batch.history, batch.length, strictly_causal=True)[1])


def test_equals_the_papers_concatenation_and_linear():
    """The plain twin: build the concatenated vector with the learned phase in it, and one matmul."""
    config = small.config().model
    encoder = ActionEncoder(config, *small.SIZES, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for name in ("phase", "bias"):
        parameter = getattr(encoder, name)
        parameter[...] = jnp.asarray(rng.normal(size=parameter.shape).astype(np.float32))
    batch, tables = small.batch(), small.tables()
    history = jax.tree.map(np.asarray, batch.history)

    values = [np.asarray(t) for t in times(batch.history, batch.length, strictly_causal=False)]
    periods = [ABSOLUTE_PERIODS, RELATIVE_PERIODS, RELATIVE_PERIODS]
    angle = np.concatenate(
        [2 * np.pi * (t[..., None] % p) / p for t, p in zip(values, periods, strict=True)], -1
    )
    angle = angle + np.asarray(encoder.phase[...])
    seconds = np.stack([values[0] + float(EPOCH), *values[1:], history.duration], -1)
    action, surface = (np.array(t[...]) for t in (encoder.action_table, encoder.surface_table))
    action[0], surface[0] = 0, 0  # the unknown is dropped
    concatenated = np.concatenate(
        [
            np.asarray(tables.item_features)[history.item] * small.ITEM_DIM**0.5,
            action[history.action],
            surface[history.surface],
            np.cos(angle),
            np.sin(angle),
            np.log1p(np.maximum(seconds, 0)) * features._LOG_SCALE,
        ],
        -1,
    )
    expected = concatenated @ np.asarray(encoder.kernel[...]) + np.asarray(encoder.bias[...])
    got = encoder(batch.history, batch.length, tables.item_features)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)
