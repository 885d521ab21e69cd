#!/usr/bin/env python3
"""Fine-tune a GPT-like model to summarise, look inside it while it learns, and compare it with what it was before.

Writes interpretability_metrics/, logs/, checkpoints/ and model_outputs/ below --output-dir.
"""

from summlens.core import processes
from summlens.core.config import parse_command_line
from summlens.core.errors import one_line_errors

if __name__ == "__main__":
    with one_line_errors(), processes.one_voice():
        config, options = parse_command_line(description=__doc__, processes=processes.world())

        # Only now what takes seconds to import: --help and a wrong option are answered at once.
        from summlens.core import console
        from summlens.evaluation import summaries
        from summlens.study import prepare, record
        from summlens.training import checkpoints, companions, estimate, fine_tune

        console.start_logging()
        processes.start()
        if options.summarize:
            print(summaries.summarize_file(options.summarize, config))
            raise SystemExit

        if options.estimate:
            print(estimate.report(config, options.speed))
            raise SystemExit

        record.announce(config)
        run = record.open_run(config, options.resume)
        study = prepare.prepare(config, run)

        if record.state_of(run) in ("new", "training"):
            estimate.announce_estimate(study)
            record.record(study, "training")
            fine_tuned = fine_tune.fine_tune(study, options.resume, summaries.sampler(study))
            checkpoints.save_model(fine_tuned, study.tokenizer, run)
            del fine_tuned  # its memory is wanted below
        record.record(study, "trained")
        companions.train(study)

        systems = {"zero_shot": study.base, "fine_tuned": run.model_outputs, **companions.trained(run)}
        scores = summaries.compare(study, systems)
        record.record(study, "finished")
        record.last_words(study, scores)
        processes.stop()
