"""One experiment's configuration: a dataclass that documents itself on the command line, and the presets' values.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import dataclasses
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from summlens import names
from summlens.core import selection
from summlens.core.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
ANOTHER_SEED = "python gpt2_summarization.py --resume --seeds 2"  # makes one


def _value(default, help: str, unit: str = "", *, choices: tuple = (), positive: bool = False):
    """A field with its documentation; numbers must not be negative, and above zero where `positive` says so."""
    metadata = {"help": help, "unit": unit, "choices": choices, "positive": positive}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Every value that an experiment depends on. A preset fills in values; the command line overrides any of them."""

    preset: str = _value("demo", "name of the preset that gave the values below")

    # data
    dataset: str = _value(
        "data/sample", "hub name, directory, or file (.jsonl, .json, .csv, .parquet, also .gz), or glob"
    )
    dataset_config: str = _value("", "the hub data set's configuration, such as 3.0.0")
    article_column: str = _value("article", "column of the text to summarise")
    summary_column: str = _value("highlights", "column of the reference summary")
    id_column: str = _value("id", "column that identifies an article; row numbers where it is absent")
    train_articles: int = _value(0, "training articles, drawn by seed; 0 = all", "articles")
    validation_articles: int = _value(0, "validation articles; 0 = all", "articles")
    test_articles: int = _value(0, "test articles that are summarised and scored; 0 = all", "articles")

    # model and text
    model: str = _value("data/model", "hub name or directory of a decoder-only language model")
    prompt: str = _value("{article}\\nTL;DR:", "template of the prompt; \\n is a line break; the summary follows it")
    window: int = _value(0, "longest sequence, article and summary together; 0 = the model's own", "tokens")
    max_new_tokens: int = _value(128, "longest generated summary", "tokens", positive=True)
    num_beams: int = _value(1, "beams in generation; 1 = greedy", "beams", positive=True)

    # training
    epochs: float = _value(3.0, "passes over the training articles", "epochs", positive=True)
    max_steps: int = _value(0, "stop after this many optimiser steps; 0 = as the epochs say", "steps")
    batch_size: int = _value(2, "articles in one forward pass, per device", "articles", positive=True)
    accumulation: int = _value(8, "forward passes in one optimiser step", "passes", positive=True)
    learning_rate: float = _value(5e-5, "peak learning rate of AdamW, linear decay to zero", positive=True)
    warmup_steps: int = _value(0, "steps of linear warm-up", "steps")
    weight_decay: float = _value(0.01, "AdamW's weight decay")
    max_grad_norm: float = _value(1.0, "gradients are clipped to this L2 norm; 0 = never", "L2 norm")
    precision: str = _value("auto", "auto = bf16 where the GPU has it, else fp16, and fp32 on a CPU",
                            choices=("auto", "fp32", "bf16", "fp16"))  # fmt: skip
    gradient_checkpointing: bool = _value(False, "recompute activations in the backward pass: less memory, slower")
    fsdp: str = _value("", "JSON file of FSDP options, such as examples/fsdp.json: the processes share one model")
    evaluation_steps: int = _value(500, "steps between two validation losses", "steps", positive=True)
    checkpoint_steps: int = _value(500, "steps between two checkpoints", "steps", positive=True)
    logging_steps: int = _value(10, "steps between two log lines and TensorBoard points", "steps", positive=True)
    trainable: str = _value("all", f"what learns: {selection.FORMS}")
    lora: bool = _value(False, "train low-rank adapters (LoRA) of the named layers' projections, merged at the end")
    lora_rank: int = _value(8, "rank of the adapters", "dimensions", positive=True)
    seed: int = _value(42, "seed of every random choice")

    # what the fine-tuned model is compared with (summlens.training.companions)
    control: str = _value(
        "",
        f"control fine-tunes of equal length, by commas: {', '.join(names.CONTROLS)}; about one training each",
    )
    seeds: int = _value(1, "training seeds: the run's own, the next one, and so on", "seeds", positive=True)

    # capture
    capture_steps: int = _value(
        200, "steps between two captures; step 0 and the last step always are", "steps", positive=True
    )
    probe_articles: int = _value(
        32, "validation articles on which the inside of the model is measured", "articles", positive=True
    )
    capture_batch_size: int = _value(4, "probe articles in one forward pass", "articles", positive=True)

    # evaluation
    evaluation_batch_size: int = _value(16, "articles in one batch of generation", "articles", positive=True)
    resamples: int = _value(10_000, "bootstrap resamples behind every interval", "resamples", positive=True)
    rouge_recipe: str = _value("rouge_score", "stemming: Porter's, or ROUGE-1.5.5's with WordNet's exceptions",
                               choices=("rouge_score", "1.5.5"))  # fmt: skip
    generation_backend: str = _value("transformers", "engine that generates the summaries",
                                     choices=("transformers", "vllm"))  # fmt: skip

    # the run
    output_dir: str = _value("", "where the run's six folders go; empty = the project's own folder")

    @property
    def effective_batch(self) -> int:
        return self.batch_size * self.accumulation

    @property
    def controls(self) -> list[str]:
        """The names in `control`, each once."""
        return list(dict.fromkeys(name.strip() for name in self.control.split(",") if name.strip()))

    @property
    def companions(self) -> list[str]:
        """The names of the fine-tunes that the run is to be compared with."""
        return [*self.controls, *(names.seed_name(self.seed + further) for further in range(1, self.seeds))]

    @property
    def template(self) -> str:
        """The prompt template with its escapes resolved."""
        return self.prompt.replace("\\n", "\n")

    def resolve(self, name: str) -> str:
        """A path that is there (also relative to the project), or `name` as it is: a hub name."""
        for path in (Path(name).expanduser(), PROJECT / name):
            if path.exists():
                return str(path)
        return name


_GPT2_ON_CNN = {"model": "openai-community/gpt2", "dataset": "abisee/cnn_dailymail", "dataset_config": "3.0.0"}
PRESETS: dict[str, dict] = {
    # The embedded default: this project's own small GPT-2 on this project's own articles; minutes on two CPU cores.
    "demo": {
        "train_articles": 2400,
        "validation_articles": 100,
        "test_articles": 100,
        "max_new_tokens": 80,
        "epochs": 1.0,
        "batch_size": 16,
        "accumulation": 1,
        "learning_rate": 2e-3,
        "warmup_steps": 15,
        "weight_decay": 0.0,
        "evaluation_steps": 50,
        "checkpoint_steps": 50,
        "logging_steps": 5,
        "capture_steps": 25,
        "probe_articles": 32,
        "capture_batch_size": 16,
        "evaluation_batch_size": 50,
    },
    # GPT-2 (124M) on CNN/DailyMail 3.0.0.
    "small": {**_GPT2_ON_CNN, "train_articles": 500, "validation_articles": 50, "test_articles": 50,
              "evaluation_steps": 20, "checkpoint_steps": 20, "capture_steps": 10},
    "medium": {**_GPT2_ON_CNN, "train_articles": 5_000, "validation_articles": 500, "test_articles": 500,
               "evaluation_steps": 100, "checkpoint_steps": 100, "capture_steps": 50},
    # A GPU does little at 2 articles a pass; 16 of 1,024 tokens fit into 16 GB.
    "full": {**_GPT2_ON_CNN, "batch_size": 16, "accumulation": 1,
             "evaluation_steps": 2_000, "checkpoint_steps": 1_000},
}  # fmt: skip


def preset(name: str, **overrides) -> Config:
    """The configuration of a preset with single values overridden."""
    return Config(preset=name, **{**PRESETS[name], **overrides})


def option(name: str) -> str:
    """The command-line option that sets the field `name`."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Options:
    """How this one call goes about the experiment; none of it changes a number."""

    resume: bool = False
    summarize: str | None = None
    estimate: bool = False
    speed: float | None = None  # TFLOP/s a device, for the estimate


def parse_command_line(
    arguments: list[str] | None = None, description: str = "", processes: int = 1
) -> tuple[Config, Options]:
    """Configuration and options from the command line: the preset's values, then the overrides.

    Raises UserError for values that cannot work, in a run of so many `processes`.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any value of a preset can be overridden by its option. Defaults shown are those of preset demo; the\n"
        "presets small, medium and full (GPT-2 on CNN/DailyMail with 500, 5,000 and all articles) have their own.",
    )
    parser.add_argument("--preset", choices=PRESETS, default="demo", help="a set of values (default: demo)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output-dir where it stopped")
    parser.add_argument(
        "--summarize", metavar="FILE", help="only summarise the text in FILE (- = standard input) and print it"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="only say what the run would take: tokens, memory, time, disk"
    )
    parser.add_argument(
        "--speed", type=float, metavar="TFLOPS",
        help="with --estimate: the training speed of a GPU in TFLOP/s, such as 400 for an H100 in bf16 "
        "(default: measured on this machine)",
    )  # fmt: skip
    demo = preset("demo")
    for field in dataclasses.fields(Config):
        if field.name == "preset":
            continue
        default = getattr(demo, field.name)
        unit = f" [{field.metadata['unit']}]" if field.metadata["unit"] else ""
        options = {"help": f"{field.metadata['help']}{unit} (default: {default!r})".replace("%", "%%")}
        if field.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": field.type, "metavar": field.type.__name__.upper()}
        if field.metadata["choices"]:
            options |= {"choices": field.metadata["choices"], "metavar": None}
        parser.add_argument(option(field.name), default=None, **options)
    given = vars(parser.parse_args(arguments))
    options = Options(**{field.name: given.pop(field.name) for field in dataclasses.fields(Options)})
    if options.speed is not None and not (options.estimate and options.speed > 0):
        raise UserError("--speed is for --estimate, and above zero")
    config = preset(given.pop("preset"), **{name: value for name, value in given.items() if value is not None})
    if given["batch_size"] is None and given["accumulation"] is None:
        config = _shared(config, processes)
    check(config, processes)
    return config, options


def _shared(config: Config, processes: int) -> Config:
    """The same articles a step in smaller passes, where that gives every process as many and nothing else does."""
    if config.accumulation % processes == 0 or config.batch_size % processes:
        return config
    return dataclasses.replace(
        config, batch_size=config.batch_size // processes, accumulation=config.accumulation * processes
    )


def check(config: Config, processes: int = 1) -> None:
    """Refuse values that cannot work, before anything is loaded. Raises UserError naming the option."""
    if config.template.count("{article}") != 1:
        raise UserError(f"--prompt must contain {{article}} exactly once, it is {config.prompt!r}")
    for name in config.controls:
        if name not in names.CONTROLS:
            raise UserError(f"--control {name} is unknown: there are {' and '.join(names.CONTROLS)}")
    if config.generation_backend == "vllm" and config.num_beams > 1:
        raise UserError(f"--generation-backend vllm is greedy here: leave it or --num-beams {config.num_beams} out")
    part = selection.parse(config.trainable)
    if config.lora and part.kind == "heads":
        raise UserError(f"--lora adapts whole projections, not --trainable {config.trainable!r}: name layers")
    if config.lora and not importlib.util.find_spec("peft"):
        raise UserError(f"--lora needs the package peft: install it with {sys.executable} -m pip install peft")
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.type in (int, float) and not (value > 0 if field.metadata["positive"] else value >= 0):
            bound = "above zero" if field.metadata["positive"] else "zero or more"
            raise UserError(f"{option(field.name)} must be {bound}, it is {value}")
    if config.accumulation % processes:
        raise UserError(
            f"{processes} processes cannot share --accumulation {config.accumulation}: give a multiple of {processes} "
            f"and keep --batch-size times --accumulation at {config.effective_batch} articles"
        )
    if config.fsdp:
        fsdp_options(config)
        if part.kind != "all" or config.lora:
            raise UserError("--fsdp trains all of a model: leave --trainable and --lora out, or --fsdp")
        if processes == 1:
            raise UserError("--fsdp spreads a model over several processes: start them with --processes N")
    if processes > 1 and config.generation_backend == "vllm":
        raise UserError("--generation-backend vllm manages its own processes: start one, or leave the option out")


# What the Trainer's fsdp_config may say here. Left out on purpose: activation_checkpointing draws other dropout when it
# recomputes (--gradient-checkpointing does not), cpu_ram_efficient_loading would empty the base model of all but one
# process, and full state dicts fail on vocabularies that do not divide evenly.
_FSDP = {"version": (2,), "reshard_after_forward": (True, False), "state_dict_type": ("SHARDED_STATE_DICT",)}


def fsdp_options(config: Config) -> dict:
    """The content of the file that --fsdp names. Raises UserError where it is not what the Trainer can use here."""
    example = "give a JSON file such as examples/fsdp.json"
    try:
        options = json.loads(Path(config.resolve(config.fsdp)).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--fsdp {config.fsdp} cannot be read ({error.strerror}): {example}") from None
    except ValueError:
        raise UserError(f"--fsdp {config.fsdp} is not JSON: {example}") from None
    if not isinstance(options, dict):
        raise UserError(f"--fsdp {config.fsdp} is not one JSON object: {example}")
    for key, value in options.items():
        if key not in _FSDP:
            raise UserError(
                f"--fsdp {config.fsdp} has the unknown key {key!r}, not one of {', '.join(_FSDP)}: leave it out"
            )
        if value not in _FSDP[key]:
            known = " or ".join(json.dumps(choice) for choice in _FSDP[key])
            raise UserError(f"--fsdp {config.fsdp}: {key} must be {known}, it is {json.dumps(value)}")
    return options
