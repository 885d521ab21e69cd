"""What people watch while a run goes on: scalars, per-head heatmaps and sample summaries, one name a line."""

from pathlib import Path

import matplotlib
import numpy as np
from torch.utils.tensorboard import SummaryWriter

_CELL = 24  # pixels a head


class TensorBoard:
    """Writes a run's events below `logs`. After a resume, what an interrupted run had logged beyond is hidden."""

    def __init__(self, logs: Path, from_step: int = 0):
        self.writer = SummaryWriter(str(logs), purge_step=from_step + 1 if from_step else None, flush_secs=10)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def step(self, step: int, info: dict, arrays: dict[str, np.ndarray]) -> None:
        """Layer means of every captured number as scalars, and every per-head metric as a layer x head image."""
        for name, value in info["scalars"].items():
            self.writer.add_scalar(f"probe/{name}", value, step)
        for key, values in arrays.items():
            kind, *rest = key.split("/")
            if rest and rest[-1] == "summary" and kind in ("attention", "activation", "head_output_norm"):
                name = "_".join([kind, *rest[:-1]])
                means = np.nanmean(values, axis=0)  # over probe articles: (L,) or (L, H)
                for layer, value in enumerate(means.reshape(len(means), -1).mean(axis=1)):
                    self.writer.add_scalar(f"{name}/layer_{layer:02d}", value, step)
                if means.ndim == 2 and "no_sink" not in name:
                    self.writer.add_image(f"{name}/heads", heatmap(means), step, dataformats="HWC")
                    self.writer.add_scalar(f"{name}/brightest_head", max(np.nanmax(means), 1.0), step)
        if info["gradients"]:
            for layer, norm in enumerate(info["gradients"]["layers"]):
                self.writer.add_scalar(f"gradient_norm/layer_{layer:02d}", norm, step)
        for matrix, change in info["weights"].items():
            self.writer.add_scalar(f"weight_change_relative/{matrix}", change["relative"], step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def heatmap(values: np.ndarray) -> np.ndarray:
    """A (layers, heads) array as an RGB image (H, W, 3), layer 0 at the top, head 0 on the left.

    Colours run from 0 to 1, or to the largest head where that is above 1 (the scalar `brightest_head` says which), so
    that two steps of a share can be compared by eye.
    """
    scaled = np.nan_to_num(values) / max(np.nanmax(values), 1.0)
    colours = matplotlib.colormaps["viridis"](scaled, bytes=True)[..., :3]
    return colours.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
