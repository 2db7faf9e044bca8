import small

from pinnerformer_jax.bench import daily


def test_each_job_is_measured(capsys):
    figures = daily.measure(small.config(), users=300, items=50, active=[0.05, 1.0])
    assert list(figures["jobs"]) == ["first state", "5.00% active", "100.00% active"]
    for job in figures["jobs"].values():
        assert job["cpu_seconds"] > 0
        assert job["peak_mib"] > job["before_mib"] > 0
        assert job["written_mib"] > 0
    daily.show(figures)
    assert "Daily job: 300 users of 32 events, 50 items" in capsys.readouterr().out
