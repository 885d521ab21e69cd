#!/usr/bin/env python3
"""Compare two models: their representations (RSA, CKA, projections, logit lens), and which parts cause the gain.

By default a run's base model against its fine-tuned one, with everything captured in between. Reads the run below
--output-dir and writes interpretability_metrics/latent_space.json and .npz there, causal.json and .npz (ablation,
cross-model patching, circuit, noise floor), controls.json and .npz (what of each change is format, what task, where the
run has a control fine-tune), and for the report's head explorer attention_maps.json and .npz. Needs no GPU.
"""

import argparse
import time

from summlens.artifacts import ATTENTION_MAPS, RECORD, Run
from summlens.core.config import PROJECT
from summlens.core.errors import one_line_errors


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


def dump_tensors(options: argparse.Namespace, material) -> list:
    from summlens.analysis import dump

    models = dump.models_of(material.run, material.tokens_of, options.dump_steps)
    folder, layers = options.dump_tensors or material.run.root / "tensors", dump.parse_layers(options.dump_layers)
    return dump.dump_models(models, material.examples, options.dump_articles, folder, layers)


def explore(options: argparse.Namespace, material) -> list:
    """The attention maps alone, made anew with the heads that are asked for."""
    from summlens.analysis import attention_maps

    asked = [attention_maps.parse_head(text) for text in options.explore]
    return material.run.write_analysis(ATTENTION_MAPS, *attention_maps.of_material(material, asked))


if __name__ == "__main__":
    started = time.monotonic()
    options = parse()
    with one_line_errors():
        run = Run(options.output_dir)
        run.read_json(RECORD)  # without it there is nothing to analyse

        # Only now what takes seconds to import: --help and a missing run are answered at once.
        from summlens import analysis
        from summlens.core import console

        console.start_logging()
        # Tensors may be dumped from checkpoints while the run goes on: no final model is needed then.
        material = analysis.Material.of(
            run,
            options.base,
            options.model,
            no_models=options.no_models or options.dump_tensors is not None,
            standardized=not options.raw,
            causal=options.causal,
            seed=options.seed,
        )
        left_out = {}
        if options.dump_tensors is not None:
            written = dump_tensors(options, material)
        elif options.explore:
            written = explore(options, material)
        else:
            done = analysis.analyze(material, without=(ATTENTION_MAPS,) if options.no_explorer else ())
            written, left_out = done.written, done.left_out

        for name, reason in left_out.items():
            print(f"left out: {name}: {reason}")
        for path in written:
            print(f"wrote {path}")
        print(f"done in {time.monotonic() - started:.0f} s")
