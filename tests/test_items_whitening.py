"""Vectors around their mean, made more even."""

import numpy as np
import pytest

from pinnerformer_jax.items.whitening import Whitening, fit_whitening, whiten


def test_by_hand():
    spread = Whitening(np.array([0.6, 0], np.float32), np.diag([1, 0.5]).astype(np.float32))
    moved = whiten(np.array([[1, 0], [0.6, 0.8], [1.1, 1], [0, 0]], np.float32), spread)
    np.testing.assert_allclose(moved, [[1, 0], [0, 1], [0.5**0.5, 0.5**0.5], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(("whitening", "deviations"), [(0, [4, 1]), (0.5, [2, 1]), (1, [1, 1])])
def test_each_axis_keeps_its_deviation_to_what_is_left(whitening, deviations):
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((50_000, 2)) * [4, 1]
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    vectors = (flat @ turn[:2] + [5, 0, 1]).astype(np.float32)  # the third axis holds nothing
    spread = fit_whitening(vectors, whitening)
    np.testing.assert_allclose(spread.centre, [5, 0, 1], atol=0.05)
    made = (vectors - spread.centre) @ spread.axes
    np.testing.assert_allclose((made @ turn.T).std(axis=0), [*deviations, 0], atol=0.02)


@pytest.mark.parametrize(("whitening", "scale"), [(0, 1), (1, 0.5)])
def test_axes_that_hold_nothing_are_scaled_as_the_widest(whitening, scale):
    vectors = np.outer(np.arange(-3, 4), [0.6, 0.8, 0]).astype(np.float32)  # deviation 2
    np.testing.assert_allclose(fit_whitening(vectors, whitening).axes, scale * np.eye(3), atol=1e-5)
    alike = np.ones((4, 3), np.float32)
    np.testing.assert_allclose(fit_whitening(alike, whitening).axes, np.eye(3), atol=1e-6)
