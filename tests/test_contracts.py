import numpy as np
import pytest

from pinnerformer_jax.data.contracts import (
    DAY,
    EPOCH,
    format_time,
    parse_time,
    to_device_time,
)
from pinnerformer_jax.model.features import ABSOLUTE_PERIODS


def test_device_epoch_is_a_multiple_of_every_absolute_period():
    assert not (EPOCH % ABSOLUTE_PERIODS.astype(np.int64)).any()


def test_device_time_is_exact_and_refuses_what_does_not_fit():
    seconds = np.array([parse_time("2026-11-24", "t"), EPOCH + 2**31 - 2])
    np.testing.assert_array_equal(to_device_time(seconds).astype(np.int64) + EPOCH, seconds)
    with pytest.raises(ValueError, match=r"1929\.\.2066"):
        to_device_time(np.array([EPOCH + 2**31]))


def test_times_read_and_print():
    assert parse_time("1970-01-02", "x") == DAY
    assert parse_time("1970-01-02T01:00:00+01:00", "x") == DAY
    assert format_time(DAY) == "1970-01-02T00:00:00Z"
    with pytest.raises(ValueError, match=r"data\.split_time = 'soon': write an ISO time"):
        parse_time("soon", "data.split_time")
