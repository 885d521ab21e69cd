"""The one place that reads and writes a run's files.

Every file is written under a temporary name and renamed, so a reader never meets half a file. Every JSON carries
`schema_version`; arrays are `.npz`, read with `allow_pickle=False`. One file a step, of that step only.

With A probe articles, L layers, H heads, N MLP hidden neurons, D model width, and "positions" one of `summary`
(queries that predict summary tokens) and `all` (every real position), a run holds in `interpretability_metrics/`:

run.json            configuration as resolved, versions, git commit, device, seed, data fingerprint, and
                    `model` {layers, heads, width, neurons, parameters, trainable: how many numbers learn, trained: the
                    layers or heads they are in}, `probe` {ids, texts}, `finished` (bool).
step_NNNNNN.json    step, epoch, `whole` (bool, below), `attention_metrics` (names), `positions` (names),
                    `scalars` {name: number}            (losses, learning rate, means: what TensorBoard shows),
                    `gradients` null or {total, layers: [L], embeddings, final_norm}: L2 norms before clipping,
                    `weights` {matrix name: {layer: int or null, absolute, relative}}: ||W - W0||_F and its ratio,
                    `log` [{step, loss, eval_loss, learning_rate, grad_norm}] since the step captured before, each entry
                    with what was logged then (loss: mean over the steps since the last entry, nats a target token).
step_NNNNNN.npz     float32 unless said otherwise; per probe article, so that every interval can be recomputed:
                    attention/<metric>/<positions>     (A, L, H); metrics and units: summlens.metrics.attention
                    activation/<site>/mean_abs/<positions>, activation/<site>/l2/<positions>   (A, L), where the site
                      residual is (A, L + 1): index 0 is the embeddings, index l the output of block l
                    head_output_norm/<positions>       (A, L, H)
                    neuron/mean, neuron/max, neuron/std, neuron/positive_share        (L, N) over summary positions
                    latent/residual                    (A, L + 1, D) mean residual stream over summary positions
                    weights_by_head/<q|k|v|o>/absolute, .../relative                   (L, H)
                    loss/summary                       (A,) nats a token of the reference summary
                    A *whole* capture holds all of it: step 0, the last step, and up to six evenly spaced between
                    (`is_whole`; a run of eight captures or fewer has only whole ones). A *slim* one has what is drawn
                    over the steps: no neuron/, no latent/, of the positions `summary` alone, and each number rounded
                    to 11 significant bits, a relative error of at most 2^-11 = 0.049 % (0 stays 0). GPT-2 with 32
                    probe articles: 2.3 MB whole, 0.2 MB slim; a run of 270 captures averages below 0.3 MB.
evaluation.json     `articles` n, `settings` {...}, `systems` {name: {label, scores {score: {mean, low, high}}}},
                    `comparisons` [{a, b, score, difference, low, high, p_value, effect}] with difference = a - b.
                    Scores are in points (x 100) where they are shares: rouge1 rouge2 rougeL rougeLsum meteor ...
predictions.jsonl   a row an article: id, article, reference, `summaries` {system: text},
                    `scores` {system: {score: value}}, `finished` {system: bool}, and
                    outlet and kind where the data name them.
latent_space.json   names, settings, intervals and noise floor of the arrays in latent_space.npz (see
                    summlens.analysis.representations.latent_space).
causal.json         ablation, patching, circuit and noise floor, with intervals and flags; causal.npz holds the effects
                    by probe article (see summlens.analysis.causal.causal_tests).
controls.json       each head's change split into format and task by the run's control fine-tunes; arrays in
                    controls.npz (see summlens.analysis.controls).
companions/<name>/  a fine-tune that the run is compared with (`Run.companion`): a control (shuffled-pairs,
                    language-model) or another seed (seed-43). Captured steps on the same probe articles, and run.json:
                    `state` (training or trained), name, `what` it is, configuration.
attention_maps.json attention rows and information flow of a few heads and probe articles, with the tokens' texts;
                    arrays in attention_maps.npz (see summlens.analysis.attention_maps).
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from summlens.core.errors import UserError

SCHEMA_VERSION = 1
# The files of a run in interpretability_metrics/, and the stems of those that are a JSON and its arrays.
RECORD, EVALUATION, PREDICTIONS = "run.json", "evaluation.json", "predictions.jsonl"
LATENT_SPACE, CAUSAL, CONTROL_SPLIT, ATTENTION_MAPS = "latent_space", "causal", "controls", "attention_maps"
_NEWER = {f"{CAUSAL}.json": 2}  # files whose format changed since version 1 of them all
MOST_WHOLE = 8  # whole captures of a run, both ends included
SLIM_BITS = 10  # of a slim capture's significands, beside the leading one that is never stored
_MEND = "delete it and run the script that writes it again"


@dataclass(frozen=True)
class Step:
    """What was captured at one optimiser step: `info` is the JSON, `arrays` the `.npz` (keys: module docstring)."""

    step: int
    info: dict
    arrays: dict[str, np.ndarray]


class Run:
    """The files of one experiment below `root` (the value of `--output-dir`)."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.metrics = self.root / "interpretability_metrics"
        self.visualizations = self.root / "visualizations"
        self.logs = self.root / "logs"
        self.images = self.root / "images"
        self.checkpoints = self.root / "checkpoints"
        self.model_outputs = self.root / "model_outputs"

    def companion(self, name: str) -> "Run":
        """The files of the fine-tune `name` that this run is compared with; they lie inside this run's own folders."""
        other = Run(self.root)
        for folder in ("metrics", "logs", "checkpoints", "model_outputs"):
            setattr(other, folder, getattr(self, folder) / "companions" / name)
        return other

    def companions(self) -> list[str]:
        """The names of the companions whose training is finished, sorted."""
        begun = (path.parent.name for path in self.metrics.glob(f"companions/*/{RECORD}"))
        return sorted(name for name in begun if self.companion(name).read_json(RECORD).get("state") == "trained")

    def write_json(self, name: str, payload: dict) -> Path:
        """Write `payload` as interpretability_metrics/`name`, with the schema version; NaN and infinity become null."""
        version = _NEWER.get(name, SCHEMA_VERSION)
        text = json.dumps(_finite({"schema_version": version, **payload}), indent=1, ensure_ascii=False)
        return write_atomically(self.metrics / name, text.encode())

    def read_json(self, name: str) -> dict:
        """The payload of interpretability_metrics/`name`. Raises UserError where it is absent, damaged or too new."""
        path = self.metrics / name
        try:
            payload = json.loads(_read(path))
        except ValueError:
            raise UserError(f"{path} is damaged (not valid JSON): {_MEND}") from None
        version = payload.get("schema_version") if isinstance(payload, dict) else None
        expected = _NEWER.get(name, SCHEMA_VERSION)
        if version != expected:
            again = "run analyze_latent_space.py again" if name in _NEWER else "make the run again"
            raise UserError(
                f"{path} has schema version {version}, this program reads {expected}: "
                f"{again}, or read it with the version that wrote it"
            )
        return payload

    def write_arrays(self, name: str, arrays: dict[str, np.ndarray], compression: int = zipfile.ZIP_DEFLATED) -> Path:
        """Write named arrays as interpretability_metrics/`name` (`.npz`; NumPy reads any zipfile `compression`)."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for key, array in arrays.items():
                with archive.open(f"{key}.npy", "w") as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        return write_atomically(self.metrics / name, buffer.getvalue())

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of interpretability_metrics/`name`. Raises UserError if it is absent or damaged."""
        path = self.metrics / name
        content = io.BytesIO(_read(path))
        try:
            with np.load(content, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (ValueError, zipfile.BadZipFile, OSError, EOFError, KeyError):
            raise UserError(f"{path} is damaged (not a whole .npz): {_MEND}") from None

    def step_arrays(self, step: int) -> Path:
        """Where the arrays of a captured step are."""
        return self.metrics / f"{_step(step)}.npz"

    def has_model(self) -> bool:
        """Whether the final model is there."""
        return (self.model_outputs / "config.json").is_file()

    def write_analysis(self, stem: str, info: dict, arrays: dict[str, np.ndarray]) -> list[Path]:
        """Write an analysis' arrays and then its JSON, `stem`.npz and .json: where the JSON is, the arrays are."""
        return [self.write_arrays(f"{stem}.npz", arrays), self.write_json(f"{stem}.json", info)]

    def has(self, name: str) -> bool:
        return (self.metrics / name).is_file()

    def write_step(self, step: int, info: dict, arrays: dict[str, np.ndarray]) -> None:
        """Write one captured step, slim where `info["whole"]` is False. Its JSON comes last: then the step exists."""
        compression = zipfile.ZIP_DEFLATED
        if not info.get("whole", True):
            arrays = {key: _rounded(array) for key, array in arrays.items() if _in_slim(key)}
            compression = zipfile.ZIP_BZIP2  # of rounded numbers a quarter smaller
        self.write_arrays(f"{_step(step)}.npz", arrays, compression)
        self.write_json(f"{_step(step)}.json", {"step": step, **info})

    def steps(self) -> list[int]:
        """The captured steps, ascending."""
        found = (re.fullmatch(r"step_(\d+)\.json", path.name) for path in self.metrics.glob("step_*.json"))
        return sorted(int(match[1]) for match in found if match)

    def whole_steps(self) -> list[int]:
        """The steps whose capture is whole, ascending."""
        return [step for step in self.steps() if self.read_json(f"{_step(step)}.json").get("whole", True)]

    def read_step(self, step: int) -> Step:
        return Step(step, self.read_json(f"{_step(step)}.json"), self.read_arrays(f"{_step(step)}.npz"))

    def delete_steps_after(self, step: int) -> None:
        """Forget captures beyond `step`: a run that resumes from there will make them again."""
        for later in self.steps():
            if later > step:
                for suffix in (".json", ".npz"):  # the JSON first: without it the step does not exist
                    (self.metrics / f"{_step(later)}{suffix}").unlink(missing_ok=True)

    def write_predictions(self, rows: Iterable[dict]) -> Path:
        lines = (json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in rows)
        return write_atomically(self.metrics / PREDICTIONS, "".join(lines).encode())

    def read_predictions(self) -> Iterator[dict]:
        path = self.metrics / PREDICTIONS
        for number, line in enumerate(_read(path).split(b"\n"), start=1):
            if line:
                try:
                    yield json.loads(line)
                except ValueError:
                    raise UserError(f"{path} is damaged at line {number}: {_MEND}") from None


def _step(step: int) -> str:
    """The stem of a captured step's two files."""
    return f"step_{step:06d}"


def is_whole(step: int, every: int, last: int) -> bool:
    """Whether a run with a capture `every` so many steps, that ends at step `last`, captures `step` whole.

    It depends on nothing else, so that a run that resumes decides the same.
    """
    intervals = -(-last // every)
    stride = max(-(-intervals // (MOST_WHOLE - 1)), 1)
    return step == last or step % (stride * every) == 0


def _in_slim(key: str) -> bool:
    return not key.startswith(("latent/", "neuron/")) and not key.endswith("/all")


def _rounded(array: np.ndarray) -> np.ndarray:
    """Float32 to the nearest with 11 significant bits, ties to even: the bits that are now zero take no room.

    Bit rounding (Kloewer et al. 2021, Nature Computational Science 1, 713-724): unlike float16 it keeps the relative
    error of small numbers.
    """
    drop = 23 - SLIM_BITS
    bits = np.asarray(array, np.float32).view(np.uint32)
    tie = (bits >> np.uint32(drop)) & np.uint32(1)
    rounded = ((bits + np.uint32((1 << (drop - 1)) - 1) + tie) >> np.uint32(drop)) << np.uint32(drop)
    return np.where(np.isfinite(array), rounded.view(np.float32), array)


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` to `path` so that `path` holds either its old or its whole new content, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is not there: run ./run_experiment.sh (or the script that writes it) first") from None


def _finite(value):
    """JSON has no NaN or infinity; they are written as null, which every reader understands."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    return value
