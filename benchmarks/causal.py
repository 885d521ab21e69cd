"""Seconds for head ablation, and for all causal tests, over 32 articles: the bundled model against itself moved.

python benchmarks/causal.py [--shape gpt2] [--articles 32]          (last line JSON)
python benchmarks/causal.py --shape gpt2 --count [--rate 15e12]     operations of head ablation, counted and not timed

--shape gpt2 takes a random model of GPT-2's shape (12 layers, 12 heads, width 768) and articles of 1,024 tokens, on the
accelerator where there is one: the time does not depend on what the weights are. --count needs none: it counts the
floating point operations of one head a layer over one article, and multiplies (heads of a layer cost the same).
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from summlens.analysis.causal import causal_tests, effects
from summlens.core.config import PROJECT
from summlens.data.tokens import Example
from summlens.model import loading
from summlens.model.editing import Edit, Subject
from summlens.model.observing import evaluating


def ablate_heads(pair, examples):
    """Mean ablation of every head of both models: the means, then a pass for each head."""
    for model in pair:
        subject = Subject(model)
        means = effects.site_means(subject, examples)["heads"]
        for batch in effects.chunks(subject, examples, range(len(examples))):
            recorded = subject.record(batch)
            for layer in range(subject.found.layers):
                for head in range(subject.found.heads):
                    value = subject.contribution(means[layer], layer, head)
                    subject.loss(batch, recorded, [Edit("head", layer, value, head)]).cpu()


def operations(function, *arguments):
    # As plain products: the counter does not know a CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def count(model, example, articles, rate):
    """Floating point operations of mean ablation of every head of both models over `articles` of this length."""
    subject = Subject(model)
    (batch,) = effects.chunks(subject, [example], range(1))
    recorded = subject.record(batch)
    whole = operations(subject.whole_loss, batch)
    nothing = torch.zeros(subject.found.width)
    layers = [
        operations(subject.loss, batch, recorded, [Edit("head", layer, nothing, 0)])
        for layer in range(subject.found.layers)
    ]
    passes = subject.found.heads * sum(layers)
    total = 2 * articles * (passes + 2 * whole)  # two recorded passes: one for the means
    kept = sum(
        values.nbytes
        for values in {
            id(v): v for part in vars(recorded).values() for v in part.values() if torch.is_tensor(v)
        }.values()
    )
    return {
        "teraflop_both_models": round(total / 1e12, 1),
        "teraflop_without_reuse": round(2 * articles * (subject.found.heads * len(layers) + 2) * whole / 1e12, 1),
        "recorded_bytes_a_token": kept // batch.ids.numel(),
        "tokens_at_a_time_on_a_gpu": effects.GPU_TOKENS,
        "seconds_at_rate": round(total / rate, 1),
        "rate": rate,
    }


def seconds(function, *arguments):
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return {
        "seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", choices=("demo", "gpt2"), default="demo")
parser.add_argument("--articles", type=int, default=32)
parser.add_argument("--count", action="store_true")
parser.add_argument("--rate", type=float, default=15e12, help="operations a second for --count (%(default).3g)")
options = parser.parse_args()
torch.manual_seed(0)
base = loading.load_model(str(PROJECT / "data/model")) if options.shape == "demo" else GPT2LMHeadModel(GPT2Config())
fine_tuned = copy.deepcopy(base)
with torch.no_grad():
    for parameter in fine_tuned.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
length, target = (180, 50) if options.shape == "demo" else (1024, 80)  # tokens an article, of which summary
generator = torch.Generator().manual_seed(0)
examples = []
for index in range(options.articles):
    ids = torch.randint(1, base.config.vocab_size, (length - index % 16,), generator=generator).tolist()
    examples.append(Example(str(index), tuple(ids), len(ids) - target, 0, len(ids) - target))
if options.count:
    with torch.no_grad(), evaluating(base):
        found = count(base, examples[0], options.articles, options.rate)
    print(json.dumps({"shape": options.shape, "articles": options.articles, "tokens": length, **found}))
    sys.exit()
pair = tuple(model.eval().to(loading.device()) for model in (base, fine_tuned))
for model in pair:
    loading.fuse_gelu(model)
with torch.no_grad(), evaluating(*pair):
    heads = seconds(ablate_heads, pair, examples)
print(
    json.dumps(
        {
            "shape": options.shape,
            "articles": options.articles,
            "tokens": sum(len(example.input_ids) for example in examples),
            "device": str(loading.device()),
            "threads": torch.get_num_threads(),
            "head_ablation_both_models": heads,
            "all_causal_tests": seconds(causal_tests.analyze, *pair, examples),
            "estimated_seconds": round(causal_tests.seconds(base, examples), 1),
        }
    )
)
