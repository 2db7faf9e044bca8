import sys

import numpy as np
import pytest
import small

from pinnerformer_jax.bench import retrieval


def test_exact_and_scann(capsys):
    pytest.importorskip("scann")
    figures = retrieval.measure(small.config(), items=2000, seconds=0.0)
    assert list(figures["ways"]) == ["exact", "ScaNN"]
    assert figures["ways"]["ScaNN"]["recall"] > 0.99, "below 20,000 items ScaNN is brute force"
    assert figures["ways"]["ScaNN"]["build_seconds"] > 0
    retrieval.show(figures)
    assert "2,000 items of 16 numbers" in capsys.readouterr().out


def test_without_scann_a_line_says_so(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    figures = retrieval.measure(small.config(), items=300, seconds=0.0)
    assert list(figures["ways"]) == ["exact"]
    assert "ScaNN is not measured" in capsys.readouterr().out


def test_vectors_are_unit_rows():
    for vectors in retrieval.vectors(700, 8):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        assert vectors.dtype == np.float32
