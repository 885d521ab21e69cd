#!/usr/bin/env python3
"""Compare two models: their representations (RSA, CKA, projections, logit lens), and which parts cause the gain.

By default a run's base model against its fine-tuned one, with everything captured in between. Reads the run below
--output-dir and writes interpretability_metrics/latent_space.json and .npz there, causal.json and .npz (ablation,
cross-model patching, circuit, noise floor), controls.json and .npz (what of each change is format, what task, where the
run has a control fine-tune), and for the report's head explorer attention_maps.json and .npz. Needs no GPU.
"""

import argparse
import contextlib
import time

from summlens.artifacts import Run
from summlens.core.config import PROJECT, Config
from summlens.core.errors import UserError, one_line_errors


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default=PROJECT, help="the run: where its six folders are (%(default)s)")
    parser.add_argument("--base", metavar="MODEL", help="hub name or directory; default: the model the run began with")
    parser.add_argument("--model", metavar="MODEL", help="what to compare with it; default: the run's model_outputs/")
    parser.add_argument(
        "--no-models", action="store_true", help="saved vectors only: fast; no logit lens, no causal tests"
    )
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--standardize", action="store_true", help="features at mean 0 and deviation 1 (the default)")
    scale.add_argument("--raw", action="store_true", help="features as they are: a few rogue dimensions dominate GPT-2")
    parser.add_argument(
        "--causal",
        choices=("auto", "exact", "fast", "off"),
        default="auto",
        help="causal tests: every intervention, or a fast gradient approximation; auto = exact where that takes less "
        "than ten minutes; off also compares models of different depth or number of heads (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap, projections, clusters (%(default)s)")
    maps = parser.add_mutually_exclusive_group()
    maps.add_argument("--no-explorer", action="store_true", help="leave out the attention maps of the head explorer")
    maps.add_argument(
        "--explore", action="append", metavar="LAYER.HEAD", help="only make the attention maps anew, with this head too"
    )
    dump = parser.add_argument_group(
        "raw tensors", "attention maps, queries, keys and activations; nothing else is done"
    )
    dump.add_argument("--dump-tensors", metavar="DIR", nargs="?", const="", help="default: tensors/ in --output-dir")
    dump.add_argument(
        "--dump-articles", type=int, default=2, metavar="N", help="the first N probe articles (%(default)s)"
    )
    dump.add_argument("--dump-layers", metavar="0,3", help="default: all layers")
    dump.add_argument(
        "--dump-steps",
        default="base,fine_tuned",
        metavar="STEPS",
        help="base, fine_tuned or checkpoints' (%(default)s)",
    )
    options = parser.parse_args()
    if options.no_models and (options.base or options.model):
        parser.error("--no-models reads saved vectors: it goes with neither --base nor --model")
    if options.explore and (options.no_models or options.base or options.model):
        parser.error("--explore is about the run's own models: it goes with none of --no-models, --base and --model")
    if options.dump_tensors is not None and (options.no_models or options.base or options.model or options.explore):
        parser.error("--dump-tensors is about the run's own models: it goes with no choice of others, nor --explore")
    if options.dump_articles < 1:
        parser.error("--dump-articles must be at least 1")
    if not 0 <= options.seed < 2**32:
        parser.error("--seed must be between 0 and 2**32 - 1")
    return options


def fine_tuned_of(run: Run) -> str:
    if not run.model_outputs.is_dir():
        raise UserError(f"{run.model_outputs} is not there: finish the training, or give --model or --no-models")
    return str(run.model_outputs)


def models_of(options: argparse.Namespace, run: Run, described: dict) -> tuple[str, str]:
    """Base and fine-tuned, by name or directory: those asked for, else those of the run."""
    base = Config().resolve(options.base or described["config"]["model"])
    return base, Config().resolve(options.model) if options.model else fine_tuned_of(run)


def dump_tensors(options: argparse.Namespace, run: Run, described: dict, examples: list) -> list:
    from summlens.analysis import dump

    names = dump.models_of(run, Config().resolve(described["config"]["model"]), options.dump_steps)
    folder = options.dump_tensors or run.root / "tensors"
    return dump.dump_models(names, examples, options.dump_articles, folder, dump.parse_layers(options.dump_layers))


@contextlib.contextmanager
def optional(what: str, left_out: dict):
    """A part without which the rest still stands: where it cannot be made, its reason is noted and said at the end."""
    try:
        yield
    except UserError as reason:
        left_out[what] = str(reason)


if __name__ == "__main__":
    started = time.monotonic()
    options = parse()
    with one_line_errors():
        run = Run(options.output_dir)
        described = run.read_json("run.json")

        # Only now what takes seconds to import: --help and a missing run are answered at once.
        from summlens.analysis import attention_maps, controls, probe
        from summlens.analysis.causal import causal_tests
        from summlens.analysis.representations import latent_space, layer_floors, represent
        from summlens.core import console

        console.start_logging()
        examples = probe.probe_examples(described)
        own_models = not (options.base or options.model or options.no_models)
        written, left_out = [], {}

        if options.dump_tensors is not None:
            written += dump_tensors(options, run, described, examples)
        elif options.explore:
            asked = [attention_maps.parse_head(text) for text in options.explore]
            written += attention_maps.write(run, models_of(options, run, described), examples, asked)
        else:
            # The captured steps lead from the run's base to its fine-tuned model: with other models they have no part.
            steps = {} if options.base or options.model else represent.saved_vectors(run, len(examples))
            if options.no_models:
                names = ("step 0 (saved vectors)", "last step (saved vectors)")
                base, fine_tuned = represent.ends(steps)
            else:
                names = models_of(options, run, described)
                tokens_of = Config().resolve(described["config"]["model"])
                base, fine_tuned = represent.represent_pair(
                    *names, examples, tokens_of=tokens_of, any_shape=options.causal == "off"
                )
            floors = layer_floors.measure(
                base, fine_tuned, examples, None if options.no_models else names[0], run if steps else None
            )
            info, arrays = latent_space.analyze(base, fine_tuned, steps, not options.raw, options.seed, floors=floors)
            written.append(run.write_arrays("latent_space.npz", arrays))
            written.append(run.write_json("latent_space.json", {"base": names[0], "fine_tuned": names[1], **info}))
            left_out |= info["left_out"]
            print("\n".join(latent_space.headlines(info)))

            if not options.no_models and options.causal != "off":
                with optional("causal tests", left_out):
                    own = run if own_models else None
                    info, arrays = causal_tests.test_pair(*names, examples, own, options.causal, options.seed)
                    written.append(run.write_arrays("causal.npz", arrays))
                    written.append(run.write_json("causal.json", info))
                    left_out |= info["left_out"]
                    print("\n".join(causal_tests.headlines(info)))

            if not (options.base or options.model):
                with optional("format and task", left_out):
                    info, arrays = controls.split(run, options.seed)
                    written.append(run.write_arrays("controls.npz", arrays))
                    written.append(run.write_json("controls.json", info))
                    left_out |= info["left_out"]
                    print("\n".join(controls.headlines(info)))

            if own_models and not options.no_explorer:
                with optional("attention maps of the head explorer", left_out):
                    written += attention_maps.write(run, names, examples)

        for name, reason in left_out.items():
            print(f"left out: {name}: {reason}")
        for path in written:
            print(f"wrote {path}")
        print(f"done in {time.monotonic() - started:.0f} s")
