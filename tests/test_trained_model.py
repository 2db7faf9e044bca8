"""A trained run, loaded."""

import dataclasses

import numpy as np
from daily_run import make_rows, make_run

from pinnerformer_jax.serving.trained_model import TrainedModel, model_version


def test_the_model_version_follows_parameters_settings_and_data(tmp_path):
    workdir = make_run(tmp_path, make_rows())
    model = TrainedModel.load(workdir, "best")
    version = model_version(model.config, model.data, model.params)
    assert version == model.version == TrainedModel.load(workdir, "last").version
    renamed = dataclasses.replace(model.config, name="other")
    assert model_version(renamed, model.data, model.params) == version
    strict = dataclasses.replace(
        model.config, model=dataclasses.replace(model.config.model, strictly_causal=True)
    )
    assert model_version(strict, model.data, model.params) != version
    assert model_version(model.config, "other", model.params) != version
    bent = model.params | {"log_temperature": model.params["log_temperature"] + np.float32(1e-6)}
    assert model_version(model.config, model.data, bent) != version
