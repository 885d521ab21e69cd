"""Raw attention maps, queries, keys and activations of chosen probe articles and layers, for metrics of one's own.

A file an article and layer, `NAME/article_000_layer_000.safetensors`, all float32, for an article of T tokens:

attention                 (H, T, T) row t is the softmax over the keys 0..t; 0 above the diagonal
query, key                (H, T, d) and (Hkv, T, d), after any rotation; query head h reads key head h // (H / Hkv)
residual                  (T, D) the output of the block (what the step files call residual l + 1)
attention_output          (T, D) and mlp_output (T, D), as their projections give them
mlp_hidden                (T, N) the neurons after the activation

`NAME/index.json` says what is where: layers, articles with their token ids and where article and summary begin, files.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from summlens import names
from summlens.artifacts import SCHEMA_VERSION, Run, write_atomically
from summlens.core.errors import UserError
from summlens.data.tokens import Example
from summlens.model import loading
from summlens.model.architecture import Architecture, architecture
from summlens.model.observing import evaluating, observed_attention, observed_sites

log = logging.getLogger(__name__)


def planned_bytes(found: Architecture, examples: Sequence[Example], layers: Sequence[int] | None = None) -> int:
    """The size of the tensors that `dump_tensors` would write, in bytes."""
    per_token = (found.heads + found.key_heads) * found.head_dim + 3 * found.width + found.neurons
    numbers = sum(found.heads * len(e.input_ids) ** 2 + per_token * len(e.input_ids) for e in examples)
    return 4 * numbers * len(_chosen(found, layers))


@torch.no_grad()
def dump_tensors(
    model: nn.Module,
    examples: Sequence[Example],
    folder: str | Path,
    layers: Sequence[int] | None = None,
    *,
    name: str = "model",
) -> Path:
    """Write the tensors of the module's docstring below `folder`/`name`; layers=None means all. Returns index.json.

    Measured in eval mode, an article at a time, without padding; memory grows with one layer's maps.

    Raises:
        UserError: a layer that does not exist, no articles, a model that cannot be captured, or a disk without room.
    """
    found, folder = architecture(model), Path(folder) / name
    layers = _chosen(found, layers)
    if not examples:
        raise UserError("no probe articles to dump: choose at least one")
    check_room(planned_bytes(found, examples, layers), folder)
    articles = []
    with evaluating(model):
        for number, example in enumerate(examples):
            files = {layer: f"article_{number:03d}_layer_{layer:03d}.safetensors" for layer in layers}
            _dump_article(found, example, {layer: folder / file for layer, file in files.items()})
            articles.append(
                {
                    "id": example.id,
                    "input_ids": list(example.input_ids),
                    "prompt_length": example.prompt_length,
                    "article_start": example.article_start,
                    "article_stop": example.article_stop,
                    "files": files,
                }
            )
    index = {"schema_version": SCHEMA_VERSION, "name": name, "layers": layers, "heads": found.heads}
    text = json.dumps({**index, "key_heads": found.key_heads, "articles": articles}, indent=1)
    return write_atomically(folder / "index.json", text.encode())


def models_of(run: Run, base: str, steps: str) -> dict[str, str]:
    """{name: model} for a list such as "base,fine_tuned,200": base, model_outputs/, checkpoints/checkpoint-200."""
    names = {}
    for step in steps.split(","):
        if step == "base":
            names[step] = base
            continue
        if step == "fine_tuned":
            folder = run.model_outputs
        elif step.isdecimal():
            folder = run.checkpoints / f"checkpoint-{int(step)}"
        else:
            raise UserError(f"{step!r} is no step to dump: give base, fine_tuned or a checkpoint's number, by commas")
        if not folder.is_dir():
            kept = sorted(int(path.name.split("-")[1]) for path in run.checkpoints.glob("checkpoint-*"))
            raise UserError(f"{folder} is not there; checkpoints of this run: {kept or 'none'}")
        names[step] = str(folder)
    return names


def parse_layers(text: str | None) -> list[int] | None:
    """[0, 3] from "0,3"; None stays None: all layers."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"{text!r} is no list of layers: give numbers from 0 separated by commas, such as 0,3")
    return [int(word) for word in words]


def dump_models(
    names: dict[str, str], examples: Sequence[Example], articles: int, folder: str | Path, layers: Sequence[int] | None
) -> list[Path]:
    """`dump_tensors` of the first `articles` examples from each {name: model}, one model in memory at a time.

    States the size of everything before it starts, and refuses it with UserError where the disk has no room for it.
    Returns the index files.
    """
    if articles > len(examples):
        raise UserError(f"{articles} articles to dump, but the run has {len(examples)} probe articles")
    chosen, written = examples[:articles], []
    on = loading.device()
    for name, source in names.items():
        model = loading.load_model(source).to(on)
        if not written:  # the models of a run have one shape
            size = planned_bytes(architecture(model), chosen, layers) * len(names)
            log.info("%d articles of %d models: %s below %s", articles, len(names), in_words(size), folder)
            check_room(size, Path(folder))
        written.append(dump_tensors(model, chosen, folder, layers, name=name))
    return written


def check_room(size: int, folder: Path) -> None:
    """Raise UserError where the disk below `folder` (which need not exist yet) has no room for `size` bytes."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise UserError(
            f"the tensors take {in_words(size)} and {existing} has {in_words(free)} free: "
            "choose fewer articles or layers, or another folder"
        )


def in_words(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _chosen(found: Architecture, layers: Sequence[int] | None) -> list[int]:
    for layer in layers or ():
        if not 0 <= layer < found.layers:
            raise UserError(f"layer {layer} does not exist: the model has layers 0 to {found.layers - 1}")
    return list(range(found.layers)) if layers is None else sorted(set(layers))


def _dump_article(found: Architecture, example: Example, paths: dict[int, Path]) -> None:
    ids = torch.tensor([example.input_ids], device=found.model.get_input_embeddings().weight.device)
    collected: dict[int, dict[str, Tensor]] = {layer: {} for layer in paths}

    def attend(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if layer in paths:
            query, key = query[0].float(), key[0].float()
            collected[layer] |= {"attention": _maps(query, key, scaling), "query": query, "key": key}

    def visit(site: str, index: int, values: Tensor) -> None:
        layer = index - 1 if site == "residual" else index
        if layer not in paths or site not in {one.key for one in names.SITES}:
            return
        collected[layer][site] = values[0].float()
        if site == "residual":  # the block is done: nothing of it needs to be kept
            tensors = {name: tensor.cpu().contiguous() for name, tensor in collected.pop(layer).items()}
            write_atomically(paths[layer], save(tensors))

    with observed_attention(found, torch.ones_like(ids, dtype=torch.bool), attend), observed_sites(found, visit):
        found.model(input_ids=ids, use_cache=False)


def _maps(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """(H, T, T) causal attention of query (H, T, d) over key (Hkv, T, d)."""
    grouped = query.unflatten(0, (len(key), -1))
    scores = (scaling * grouped @ key[:, None].transpose(-1, -2)).flatten(0, 1)
    above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill_(above, -torch.inf).softmax(-1)
