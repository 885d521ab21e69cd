"""The files of a run that never happened: the right names, shapes and units, invented numbers, written through Run.

Deterministic. Head (layers - 1, 0) changes most and head (0, 0) not at all, so that tests know what must be found.
"""

import numpy as np

from summlens.artifacts import Run

SHARES = ("sparsity", "previous_token_share", "article_share", "summary_share", "copy_score")
METRICS = ("entropy", "normalized_entropy", *SHARES, "distance", "kl", "js")
SITES = ("residual", "attention_output", "mlp_output", "mlp_hidden")
MATRICES = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")
SYSTEMS = {
    "zero_shot": ("Zero-shot", 14.0),
    "fine_tuned": ("Fine-tuned", 52.0),
    "lead3": ("Lead-3", 40.0),
    "random3": ("Random-3", 27.0),
    "oracle": ("Extractive oracle", 61.0),
    "reference": ("Reference", 100.0),
}
SCORES = ("rouge1", "rouge2", "rougeL", "rougeLsum", "meteor")
NOT_IN_EVERY_RUN = {"seed", "meteor"}  # another seed's floor; METEOR where a WordNet is at hand
HOSTILE = "<script>document.title = 'owned'</script></script>\"'><img src=x onerror=alert(1)>"


LENGTHS = ((18, 11), (13, 8))  # of the texts that the head explorer shows: tokens in all, tokens of the prompt


def write(
    root,
    layers=4,
    heads=6,
    steps=7,
    articles=8,
    width=16,
    neurons=24,
    tests=12,
    every=20,
    seed=0,
    shown=3,
    lengths=LENGTHS,
    sentences=3,
) -> Run:
    """Write a whole run below `root` and return it. `shown` heads and texts of `lengths` are in the head explorer;
    an article of the evaluation has `sentences` pairs of sentences."""
    run, random = Run(root), np.random.default_rng(seed)
    numbers = [every * index for index in range(steps)]
    run.write_json("run.json", _info(layers, heads, width, neurons, articles))
    start = _heads(random, articles, layers, heads)
    for index, step in enumerate(numbers):
        progress = index / max(steps - 1, 1)
        info, arrays = _capture(random, start, progress, step, layers, heads, articles, width, neurons)
        run.write_step(step, info, arrays)
    write_evaluation(run, random, tests, sentences)
    write_latent_space(run, random, numbers, layers, articles)
    run.write_json("causal.json", causal_info(layers, heads, articles))
    write_controls(run, layers, heads, articles)
    write_attention_maps(run, layers, heads, shown, lengths)
    return run


def _info(layers, heads, width, neurons, articles) -> dict:
    return {
        "state": "finished",
        "finished": True,
        "config": {"preset": "synthetic", "dataset": "made-up", "learning_rate": 5e-5, "epochs": 1, "seed": 0},
        "model": {
            "name": "data/tiny",
            "layers": layers,
            "heads": heads,
            "width": width,
            "neurons": neurons,
            "parameters": 12345,
        },
        "data": {"fingerprint": "synthetic"},
        "probe": {"ids": [f"probe-{index}" for index in range(articles)], "texts": ["text"] * articles},
        "seed": 0,
        "environment": {"python": "3.11", "packages": {"torch": "0"}, "device": "none", "git_commit": "0" * 40},
    }


def _heads(random, articles, layers, heads) -> dict:
    shape = (articles, layers, heads)
    start = {name: random.uniform(0.2, 0.6, shape) for name in METRICS}
    start["entropy"] = start["normalized_entropy"] * 8
    start["distance"] = random.uniform(5, 80, shape)
    start["kl"], start["js"] = np.zeros(shape), np.zeros(shape)
    start["first_token_share"] = random.uniform(0.1, 0.7, shape)
    return start


def _capture(random, start, progress, step, layers, heads, articles, width, neurons):
    strength = np.linspace(0, 1, layers * heads).reshape(layers, heads)
    strength[layers - 1, 0] = 3.0
    strength[0, 0] = 0.0
    arrays = {}
    for name, value in start.items():
        noise = random.normal(0, 0.1, value.shape) * progress * strength
        move = progress * strength * (0.3 if name in ("kl", "js") else 0.1 * np.cos(7 * strength))
        moved = np.maximum(value + move + noise, 0).astype(np.float32)
        for positions in ("summary", "all"):
            scale = 1.0 if positions == "summary" else 0.5
            arrays[f"attention/{name}/{positions}"] = moved * np.float32(scale)
            if name != "first_token_share":
                arrays[f"attention/{name}_no_sink/{positions}"] = moved * np.float32(0.8 * scale)
    for positions in ("summary", "all"):
        norm = (2 + progress * strength + random.normal(0, 0.05, start["kl"].shape)).astype(np.float32)
        arrays[f"head_output_norm/{positions}"] = norm
        for site in SITES:
            depth = layers + 1 if site == "residual" else layers
            grown = np.linspace(1, 3, depth) * (1 + 0.3 * progress) + random.normal(0, 0.05, (articles, depth))
            arrays[f"activation/{site}/mean_abs/{positions}"] = grown.astype(np.float32)
            arrays[f"activation/{site}/l2/{positions}"] = (grown * 4).astype(np.float32)
    base = np.random.default_rng(1).normal(0, 0.2, (layers, neurons))
    shift = np.random.default_rng(2).normal(0, 0.1, (layers, neurons))
    arrays["neuron/mean"] = (base + progress * shift).astype(np.float32)
    arrays["neuron/std"] = np.full((layers, neurons), 0.5, np.float32)
    arrays["neuron/max"] = (base + 2).astype(np.float32)
    arrays["neuron/positive_share"] = np.clip(0.3 + base + progress * shift, 0, 1).astype(np.float32)
    arrays["latent/residual"] = random.normal(size=(articles, layers + 1, width)).astype(np.float32)
    for matrix in "qkvo":
        arrays[f"weights_by_head/{matrix}/absolute"] = (progress * strength).astype(np.float32)
        arrays[f"weights_by_head/{matrix}/relative"] = (progress * strength / 10).astype(np.float32)
    arrays["loss/summary"] = (3 - 2 * progress + random.normal(0, 0.1, articles)).astype(np.float32)
    weights = {"wte": {"layer": None, "absolute": progress, "relative": progress / 50}}
    for layer in range(layers):
        for rank, matrix in enumerate(MATRICES):
            change = progress * (1 + layer + rank)
            weights[f"h.{layer}.{matrix}"] = {"layer": layer, "absolute": change, "relative": change / 100}
    gradients = {
        "total": 2.0 - progress,
        "layers": list(np.linspace(1, 0.4, layers) * (1.2 - progress)),
        "embeddings": 0.7,
        "final_norm": 0.1,
    }
    info = {
        "epoch": progress,
        "attention_metrics": sorted(start),
        "positions": ["summary", "all"],
        "scalars": {"probe_loss": float(arrays["loss/summary"].mean())},
        "gradients": gradients if step else None,
        "weights": weights,
        "log": _log(step, progress) if step else [],
    }
    return info, arrays


def _log(step, progress) -> list[dict]:
    numbers = {"loss": 3 - 2 * progress, "learning_rate": 5e-5 * (1 - progress)}
    return [{"step": step - 1, **numbers}, {"step": step, **numbers, "eval_loss": 3.1 - 1.9 * progress}]


def write_evaluation(run: Run, random, tests: int, sentences: int) -> None:
    """evaluation.json and predictions.jsonl; every article tries to run a script in the reader's browser."""
    rows, values = [], {system: {score: [] for score in (*SCORES, "length")} for system in SYSTEMS}
    for index in range(tests):
        reference = f"The mayor of Town {index} opened a new bridge on Monday.\nIt cost {index + 2} million dollars."
        summaries = {
            "zero_shot": f"The weather in Town {index} was fine and nobody said anything of interest",
            "fine_tuned": f"The mayor of Town {index} opened a new bridge on Friday.\nIt cost money.",
            "lead3": f"A crowd gathered in Town {index}. The mayor of Town {index} came.",
        }
        scores = {}
        for system, (_, level) in SYSTEMS.items():
            if system == "reference":  # a reference is not scored against itself
                scores[system] = {"length": float(len(reference.split()))}
            else:
                ease = random.normal(0, 8)
                scores[system] = {score: max(level + ease - 3 * rank, 0.0) for rank, score in enumerate(SCORES)}
                scores[system]["length"] = level / 2 + ease
            for score, value in scores[system].items():
                values[system][score].append(value)
        article = (
            f"A crowd gathered in Town {index}. The mayor of Town {index} opened a new bridge on Monday. " * sentences
        )
        rows.append(
            {
                "id": f"test-{index}",
                "article": f"{HOSTILE} {article}",
                "reference": reference,
                "summaries": summaries,
                "scores": scores,
                "finished": {"zero_shot": False, "fine_tuned": True},
            }
        )
    systems = _systems(values)
    comparisons = []
    for other in ("zero_shot", "lead3", "reference"):
        for score in systems[other]["scores"]:
            difference = _mean(np.subtract(values["fine_tuned"][score], values[other][score]))
            comparisons.append(
                {
                    "a": "fine_tuned",
                    "b": other,
                    "score": score,
                    "difference": difference["mean"],
                    "low": difference["low"],
                    "high": difference["high"],
                    "p_value": 0.0002 if other == "zero_shot" else 0.04,
                    "effect": 2.0,
                }
            )
    kinds = {"fire": slice(0, 3), "flood": slice(3, None)}  # the rows of each kind of article
    groups = {
        kind: {
            "articles": len(rows[part]),
            "systems": _systems({s: {k: v[part] for k, v in found.items()} for s, found in values.items()}),
        }
        for kind, part in kinds.items()
    }
    settings = {
        "max_new_tokens": 64,
        "num_beams": 1,
        "rouge_recipe": "rouge_score",
        "wordnet": None,
        "sentence_splitter": "punkt",
    }
    payload = {"articles": tests, "settings": settings, "systems": systems, "comparisons": comparisons}
    run.write_json("evaluation.json", {**payload, "groups": {"kind": groups}})
    run.write_predictions(rows)


def _systems(values: dict) -> dict:
    return {
        system: {"label": label, "scores": {score: _mean(v) for score, v in values[system].items() if len(v)}}
        for system, (label, _) in SYSTEMS.items()
    }


def _mean(values) -> dict:
    half = 1.96 * np.std(values) / max(np.sqrt(len(values)), 1)
    return {"mean": np.mean(values), "low": np.mean(values) - half, "high": np.mean(values) + half}


def write_latent_space(run: Run, random, numbers: list[int], layers: int, articles: int) -> None:
    """latent_space.json and latent_space.npz."""
    depth = layers + 1
    distance = np.abs(np.subtract.outer(np.arange(depth), np.arange(depth))) / depth
    same = 1 - 0.5 * np.linspace(0, 1, depth)
    progress = np.linspace(0, 1, len(numbers))[:, None]
    arrays = {"steps": np.array(numbers)}
    for measure in ("rsa", "cka"):
        arrays[f"{measure}/base_fine_tuned"] = np.clip(1 - distance - 0.3, -1, 1)
        arrays[f"{measure}/same_layer"] = np.stack([same, same - 0.05, same + 0.05])
        arrays[f"{measure}/steps"] = 1 - progress * (1 - same)
    for model, gain in (("base", 0.0), ("fine_tuned", 1.0)):
        slope = np.linspace(6, 3 - gain, depth)
        arrays[f"logit_lens/{model}/loss"] = slope + random.normal(0, 0.2, (articles, depth))
        arrays[f"logit_lens/{model}/rank"] = np.exp(slope + random.normal(0, 0.2, (articles, depth)))
        arrays[f"layer_distance/{model}"] = random.uniform(0.1, 0.5, (articles, layers))
    arrays["divergence/cosine"] = random.uniform(0, 0.3, (articles, depth))
    grid = np.stack(np.meshgrid(numbers, range(depth), range(articles), indexing="ij"), -1).reshape(-1, 3)
    points = np.stack([grid[:, 1] * 2.0, grid[:, 0] / (max(numbers[-1:] + [1]) or 1), grid[:, 2] * 0.3], axis=1)
    arrays["projection/umap3"] = points + random.normal(0, 0.1, points.shape)
    arrays["projection/umap2"] = points[:, :2]
    for column, name in enumerate(("step", "layer", "article")):
        arrays[f"projection/{name}"] = grid[:, column]
    arrays["clusters/kmeans"] = grid[:, 1] % 3
    tested, floors = {}, {"numerical": 0.001, "seed": 0.2, "sampling": 0.1}  # the upper half of the layers is beyond
    for number in ("rsa", "cka", "divergence/cosine", "logit_lens/loss", "logit_lens/rank"):
        kept = {key: floor for key, floor in floors.items() if key != "sampling" or number != "divergence/cosine"}
        flag = np.arange(depth) >= depth / 2
        tested[number] = {"flag": flag, "flagged": int(flag.sum()), "of": depth, "median": {"change": 0.3, **kept}}
        arrays |= {f"noise_floor/{number}/{key}": np.full(depth, floor) for key, floor in kept.items()}
    found = {"floors": dict.fromkeys(floors, "what it compares"), "layers": tested}
    run.write_json("latent_space.json", {"noise_floor": found})
    run.write_arrays("latent_space.npz", arrays)


def write_controls(run: Run, layers: int, heads: int, articles: int) -> None:
    """controls.json and controls.npz: the task is head (layers - 1, 0) alone, all else is format."""
    arrays, info = {}, {}
    for control in ("shuffled-pairs", "language-model"):
        info[control] = {"movement": {"share": 0.6, "low": 0.5, "high": 0.7}, "heads": {}}
        for metric, sign in (("kl", 1.0), ("normalized_entropy", -0.1)):
            total = sign * np.linspace(0, 0.5, layers * heads).reshape(layers, heads)
            total[layers - 1, 0] = 0.9 * sign
            task = np.zeros_like(total)
            task[layers - 1, 0] = 0.7 * sign
            for part, values in (("total", total), ("format", total - task), ("task", task)):
                arrays[f"{control}/heads/{metric}/{part}"] = np.stack([values, values - 0.02, values + 0.02])
            arrays[f"{control}/heads/{metric}/flag"] = task != 0
            info[control]["heads"][metric] = {"flagged": 1, "of": layers * heads}
    run.write_arrays("controls.npz", arrays)
    run.write_json("controls.json", {"articles": articles, "controls": info})


def write_attention_maps(run: Run, layers: int, heads: int, count: int, lengths) -> None:
    """attention_maps.json and attention_maps.npz of `count` heads (or all) and of articles with these lengths."""
    random = np.random.default_rng(7)
    others = [(layer, head) for layer in range(layers - 1, -1, -1) for head in range(heads)]
    places = list(dict.fromkeys([(layers - 1, 0), (0, 0), (0, heads - 1), *others]))[:count]
    shown, arrays = [], {}
    for article, (length, prompt) in enumerate(lengths):
        tokens = [" word", ",", "\n", HOSTILE, *(f" token{index}" for index in range(4, length))]
        shown.append(
            {
                "id": f"probe-{article}",
                "tokens": tokens,
                "article_start": 0,
                "article_stop": prompt - 3,
                "prompt_length": prompt,
            }
        )
        queries = np.arange(prompt - 1, length - 1)
        for model in ("base", "fine_tuned"):
            scores = random.normal(0, 2, (len(places), len(queries), length))
            scores[:, np.arange(length)[None] > queries[:, None]] = -np.inf
            rows = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            arrays[f"rows/{article}/{model}"] = _quantised(rows)
            for method in ("rollout", "value_weighted"):
                key = f"flow/{article}/{model}/{method}"
                arrays[f"{key}/sources"] = _quantised(rows[0])
                arrays[f"{key}/count"] = random.integers(1, max(length // 35, 5), (len(queries), layers)).astype(
                    np.uint16
                )
                total = int(arrays[f"{key}/count"].sum())
                arrays[f"{key}/edges"] = random.integers(0, prompt, (total, 2)).astype(np.uint16)
                arrays[f"{key}/weight"] = _quantised(random.uniform(0.002, 0.4, total))
    chosen = [
        {"layer": layer, "head": head, "reasons": ["moved most"], "kl": 0.3 / (1 + k), "copy_score": 0.1}
        for k, (layer, head) in enumerate(places)
    ]
    run.write_json(
        "attention_maps.json",
        {
            "models": {"base": "base", "fine_tuned": "fine-tuned"},
            "heads": chosen,
            "articles": shown,
            "quantisation": "uint8 q stands for the share (q / 255)^2",
            "flow": {"threshold": 0.002, "most": 24},
        },
    )
    run.write_arrays("attention_maps.npz", arrays)


def _quantised(shares) -> np.ndarray:
    return np.rint(255 * np.sqrt(shares)).astype(np.uint8)


def _table(key, shape, place=None, value=0.5) -> dict:
    values = np.random.default_rng(len(shape)).normal(0, 0.02, shape)
    flag = np.zeros(shape, dtype=bool)
    if place is not None:
        values[place], flag[place] = value, True
    return {
        key: values.tolist(),
        "low": (values - 0.05).tolist(),
        "high": (values + 0.05).tolist(),
        "flag": flag.tolist(),
    }


def causal_info(layers: int, heads: int, articles: int) -> dict:
    """What causal.json holds (`causal_tests`): head (layers - 1, heads - 2) is what every test names."""
    by_head, by_layer, strong = (layers, heads), (layers,), (layers - 1, max(heads - 2, 0))
    of_model = lambda value: {  # noqa: E731
        "heads": _table("mean", by_head, strong, value),
        "attention": _table("mean", by_layer),
        "mlp": _table("mean", by_layer),
    }
    patched = {
        "heads": _table("share", by_head, strong, 0.4),
        "attention": _table("share", by_layer),
        "mlp": _table("share", by_layer),
        "residual": _table("share", (layers + 1,), (layers,), 0.9),
    }
    moved = np.arange(layers * heads).reshape(by_head) / 10
    names = ("kl", "entropy_change", "weight_change")
    row = {"matters": "noising", "value": 0.7, "low": 0.6, "high": 0.8}
    share = {"share": 0.85, "low": 0.7, "high": 0.95}
    flags = np.zeros(by_head, dtype=bool)
    flags[strong] = True
    return {
        "exact": True,
        "articles": articles,
        "left_out": {},
        "loss": {"gain": {"mean": 2.0, "low": 1.5, "high": 2.5}},
        "ablation": {
            "mean": {"base": of_model(0.1), "fine_tuned": of_model(0.3), "difference": of_model(0.2)},
            "zero": {"fine_tuned": {"heads": _table("mean", by_head, strong, 0.35)}},
        },
        "patching": {"noising": patched, "denoising": patched},
        "attribution_patching": {
            "noising": {
                "heads": _table("share", by_head, strong, 0.38),
                "agreement": {"value": 0.9, "low": 0.8, "high": 0.95},
            }
        },
        "moved_and_matters": {
            "moved": {name: moved.tolist() for name in names},
            "correlations": [{"moved": name, **row} for name in names],
        },
        "circuit": {
            "target": 0.8,
            "heads": [list(strong), [0, 1]],
            "size": 2,
            "of": layers * heads,
            "articles": {"search": 3, "held_out": 3},
            "target_of": "gain",
            "all_heads": {"share": 0.95, "low": 0.9, "high": 1.0},
            "greedy": share,
            "by_metric": {"kl": {"share": 0.1, "low": 0.0, "high": 0.2, "in_common": 0, "p_value": 0.6}},
            "random": {"shares": [0.0, 0.1, 0.3], "p_value": 0.04},
        },
        "noise_floor": {
            "floors": {"sampling": "halves of the articles", "numerical": "bfloat16", "seed": "seed 43"},
            "heads": {
                "kl": {
                    "flag": (~flags).tolist(),
                    "flagged": layers * heads - 1,
                    "of": layers * heads,
                    "median": {"change": 0.4, "numerical": 0.0004, "seed": 0.1},
                },
                "normalized_entropy": {
                    "flag": flags.tolist(),
                    "flagged": 1,
                    "of": layers * heads,
                    "median": {"change": 0.04, "sampling": 0.02, "numerical": 0.0001, "seed": 0.05},
                },
                "copy_score": {"flag": flags.tolist(), "flagged": 4, "of": layers * heads},
            },
            "layers": {},
            "neurons": {
                "flagged": 5 * layers * (layers + 1) // 2,
                "of": 24 * layers,
                "by_layer": [5 * (layer + 1) for layer in range(layers)],
            },
        },
    }
