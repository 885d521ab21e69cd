"""Settings for the whole suite."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: no test needs a network, and none waits for one

import numpy as np
import pytest
import torch

from summlens.metrics import projection

torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it brings


@pytest.fixture
def no_projection(monkeypatch):
    """Projections cost seconds: a test of something else is spared them."""

    def pca(points, seed):
        return {"pca2": np.asarray(points)[:, :2]}, {"principal_components": 2, "seed": seed}

    monkeypatch.setattr(projection, "project", pca)
