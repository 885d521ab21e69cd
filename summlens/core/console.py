"""What a run says on the terminal: this project's own lines, and from the libraries only errors."""

import logging
import os
import sys
import warnings


def start_logging() -> None:
    """Readable lines from this project on stderr; the libraries' chatter, bars and advice stay out."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import transformers

    logging.basicConfig(format="%(message)s", level=logging.ERROR, stream=sys.stderr)
    logging.getLogger("summlens").setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # five warnings before a hub that is out of reach
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|datasets|accelerate|huggingface_hub|umap|sklearn)\b")
