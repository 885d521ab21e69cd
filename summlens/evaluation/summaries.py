"""Zero-shot against fine-tuned on the same test articles, and single summaries with the run's model."""

import copy
import hashlib
import logging
import sys
from pathlib import Path

from summlens.artifacts import EVALUATION, Run
from summlens.core import processes
from summlens.core.config import PROJECT, Config
from summlens.core.errors import UserError
from summlens.data.cleaning import clean_article
from summlens.data.tokens import Encoder
from summlens.evaluation import score
from summlens.model import generation, loading
from summlens.study.prepare import Study

log = logging.getLogger(__name__)
SAMPLES = 2  # summaries that TensorBoard shows at every capture


def compare(study: Study, systems: dict) -> dict:
    """Summarise the test articles with every model, score, and write evaluation.json and predictions.jsonl.

    `systems` are models by name, or the directories of models that are loaded one at a time. Returns the content of
    evaluation.json. What an interrupted evaluation had generated is not generated again. The processes of a run share
    the generation; rank 0 scores and writes.
    """
    config, run = study.config, study.run
    articles = list(study.splits["test"])
    prompts = [study.encoder.prompt(row["article"], config.max_new_tokens)[0] for row in articles]
    keys = [f"{index}/{row['id']}" for index, row in enumerate(articles)]  # ids of a data set may repeat
    kept = run.metrics / "generated.jsonl.part"
    summaries, finished = {}, {}
    for name, system in systems.items():
        log.info("summarising %d test articles: %s", len(articles), name)
        if config.generation_backend == "vllm":
            path = config.resolve(config.model) if name == "zero_shot" else system
            written = generation.generate_vllm(path, prompts, **_limits(study))
        else:
            model = loading.load_model(str(system)) if isinstance(system, Path) else system
            cache = generation.GenerationCache(kept, f"{name} {_fingerprint(model, prompts, config)}")
            written = _generate(study, model, prompts, ids=keys, cache=cache)
        summaries[name] = [study.encoder.text(one.ids) for one in written]
        finished[name] = [one.finished for one in written]
    return processes.from_rank_zero(lambda: _score(study, articles, summaries, finished, kept))


def _score(study: Study, articles: list, summaries: dict, finished: dict, kept: Path) -> dict:
    config, run = study.config, study.run
    result, rows = score.evaluate_systems(
        articles,
        summaries,
        finished,
        rouge_recipe=config.rouge_recipe,
        seed=config.seed,
        resamples=config.resamples,
        settings={
            "prompt": config.template,
            "max_new_tokens": config.max_new_tokens,
            "num_beams": config.num_beams,
            "window": study.encoder.window,
            "backend": config.generation_backend,
        },
    )
    run.write_predictions(rows)
    run.write_json(EVALUATION, result)
    for part in kept.parent.glob(f"{kept.name}*"):
        part.unlink()
    return result


def sampler(study: Study):
    """A function that summarises the first probe articles with a model, as Markdown for TensorBoard.

    The processes share the work, but with --fsdp, where rank 0 alone has a whole model and calls the function alone.
    """
    probes = study.probe[:SAMPLES]
    prompts = [list(example.input_ids[: example.prompt_length]) for example in probes]
    room = study.encoder.window - max(map(len, prompts))
    references = [study.encoder.text(example.input_ids[example.prompt_length : -1]) for example in probes]

    def sample(model) -> str:
        limit = {"max_new_tokens": min(room, study.config.max_new_tokens)}
        written = _generate(study, model, prompts, progress=False, alone=bool(study.config.fsdp), **limit)
        texts = (study.encoder.text(one.ids) for one in written)
        return "\n\n---\n\n".join(
            f"**{example.id}**, reference:\n\n{reference}\n\n**generated:**\n\n{text}"
            for example, reference, text in zip(probes, references, texts, strict=True)
        )

    return sample


def summarize_file(name: str, config: Config) -> str:
    """The summary of one text file (- = standard input) by the run's fine-tuned model, or the base without one."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): check the file name") from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text: convert it first") from None
    article = clean_article(text)
    if not article:
        raise UserError(f"{name} holds no text to summarise")
    run = Run(config.output_dir or PROJECT)
    tuned = run.has_model()
    if not tuned:
        log.warning("no fine-tuned model in %s yet: %s summarises as it is", run.model_outputs, config.model)
    source = str(run.model_outputs) if tuned else config.resolve(config.model)
    tokenizer, model = loading.load_tokenizer(source), loading.load_model(source).to(loading.device())
    encoder = Encoder(tokenizer, config.template, config.window or loading.window(model))
    prompt, start, stop = encoder.prompt(article, config.max_new_tokens)
    if len(encoder.prompt(article, 0)[0]) > len(prompt):
        log.warning("only the first %d tokens of the article fit the model's window", stop - start)
    (written,) = generation.generate(
        model,
        [prompt],
        pad_id=tokenizer.eos_token_id,
        eos_id=tokenizer.eos_token_id,
        max_new_tokens=config.max_new_tokens,
        num_beams=config.num_beams,
        progress=False,
    )
    return encoder.text(written.ids)


def _limits(study: Study) -> dict:
    return {"eos_id": study.tokenizer.eos_token_id, "max_new_tokens": study.config.max_new_tokens}


def _generate(study: Study, model, prompts, **options) -> list:
    """Generate in the arithmetic of training (bf16 where the GPU has it); the model itself stays as it is."""
    device = loading.device()
    dtype = loading.training_dtype(study.config.precision, device)
    if model.dtype != dtype:
        model = copy.deepcopy(model).to(dtype)
    settings = {
        **_limits(study),
        "pad_id": study.tokenizer.eos_token_id,
        "num_beams": study.config.num_beams,
        "batch_size": study.config.evaluation_batch_size,
    }
    return generation.generate(model.to(device), prompts, **{**settings, **options})


def _fingerprint(model, prompts, config: Config) -> str:
    """A hash of everything that decides a generated summary."""
    digest = hashlib.sha256(repr((prompts, config.max_new_tokens, config.num_beams, config.precision)).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
