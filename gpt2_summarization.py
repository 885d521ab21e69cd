#!/usr/bin/env python3
"""Fine-tune a GPT-like model to summarise, look inside it while it learns, and compare it with what it was before.

Writes interpretability_metrics/, logs/, checkpoints/ and model_outputs/ below --output-dir.
"""

from summlens import processes
from summlens.config import parse_command_line
from summlens.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors(), processes.one_voice():
        config, options = parse_command_line(description=__doc__, processes=processes.world())

        # Only now what takes seconds to import: --help and a wrong option are answered at once.
        from summlens import companions, comparison, console, estimate, experiment, training

        console.start_logging()
        processes.start()
        if options.summarize:
            print(comparison.summarize_file(options.summarize, config))
            raise SystemExit

        if options.estimate:
            print(estimate.report(config, options.speed))
            raise SystemExit

        experiment.announce(config)
        run = experiment.open_run(config, options.resume)
        study = experiment.prepare(config, run)

        if experiment.state_of(run) in ("new", "training"):
            experiment.announce_estimate(study)
            experiment.record(study, "training")
            fine_tuned = training.fine_tune(study, options.resume, comparison.sampler(study))
            training.save_model(fine_tuned, study.tokenizer, run)
            del fine_tuned  # its memory is wanted below
        experiment.record(study, "trained")
        companions.train(study)

        systems = {"zero_shot": study.base, "fine_tuned": run.model_outputs, **companions.trained(run)}
        scores = comparison.compare(study, systems)
        experiment.record(study, "finished")
        experiment.last_words(study, scores)
        processes.stop()
