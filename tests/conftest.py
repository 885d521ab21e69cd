"""Settings for the whole suite."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import reads it: no test needs a network, and none waits for one

import torch

torch.set_num_threads(1)  # the models are tiny: a second thread costs more than it brings
