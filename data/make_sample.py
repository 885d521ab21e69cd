"""Make the bundled sample: invented news articles with highlights, in the columns of CNN/DailyMail.

Why generated: the text may be shipped freely, a small model can learn it in minutes, and for each fact in the
highlights the article's own mention of it is known to the character: a ground truth for attention that real
news never has. Every row depends on its seed, split and number alone, so any row can be made again by itself.

    python data/make_sample.py                      # data/sample/{train,validation,test}.parquet
    python data/make_sample.py --train 100 --output /tmp/sample
"""

import argparse
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

try:
    from data import sample_templates as words
except ImportError:  # run as a script: data/ itself is on the path
    import sample_templates as words

SEED = 2025
SIZES = {"train": 4000, "validation": 300, "test": 300}

SCHEMA = pa.schema(
    {
        "article": pa.string(),
        "highlights": pa.string(),
        "id": pa.string(),
        "kind": pa.string(),
        "facts": pa.list_(
            pa.struct(
                {
                    "text": pa.string(),
                    "start": pa.int32(),
                    "end": pa.int32(),
                    "highlight_start": pa.int32(),
                    "highlight_end": pa.int32(),
                }
            )
        ),
    }
)

SLOT = re.compile(r"\{(\w+)\}")
ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
NEEDS_AN = re.compile(r"(?!uni|one\b|eu)[aeiou]|(8\d?|11|18)(?!\d)", re.IGNORECASE)


def _number(rng: random.Random, low: int, high: int) -> str:
    return str(rng.randint(low, high))


def _person(rng: random.Random) -> str:
    return f"{rng.choice(words.FIRST_NAMES)} {rng.choice(words.SURNAMES)}"


def _town(rng: random.Random) -> str:
    return rng.choice(words.TOWN_STARTS) + rng.choice(words.TOWN_MIDDLES) + rng.choice(words.TOWN_ENDS)


def _company(rng: random.Random) -> str:
    name = rng.choice(words.COMPANY_STARTS) + rng.choice(words.COMPANY_MIDDLES)
    return f"{name} {rng.choice(words.COMPANY_ENDS)}"


SLOTS = {
    "person": _person,
    "town": _town,
    "company": _company,
    "river": lambda rng: rng.choice(words.TOWN_STARTS) + rng.choice(["a", "en", "er", "ine", "ow", "une"]),
    "road": lambda rng: f"{rng.choice(words.ROAD_STARTS)} {rng.choice(words.ROAD_ENDS)}",
    "few": lambda rng: rng.choice(words.NUMBER_WORDS),
    "dozens": lambda rng: _number(rng, 11, 89),
    "hundreds": lambda rng: _number(rng, 101, 989),
    "thousands": lambda rng: f"{rng.randint(11, 899) * 100:,}",
    "money": lambda rng: f"${rng.randint(11, 999) / 10:.1f} million",
    "sum": lambda rng: f"${rng.randint(11, 990) * 100:,}",
    "percent": lambda rng: f"{rng.randint(3, 79)} percent",
    "majority": lambda rng: f"{rng.randint(51, 74)} percent",
    "rise": lambda rng: f"{rng.randint(7, 19)} percent",
    "offer": lambda rng: f"{rng.randint(2, 6)} percent",
    "age": lambda rng: _number(rng, 18, 89),
    "year": lambda rng: _number(rng, 1950, 2019),
    "year2": lambda rng: _number(rng, 2027, 2060),
    "date": lambda rng: f"{rng.choice(words.MONTHS)} {rng.randint(1, 28)}",
    "day": lambda rng: rng.choice(words.DAYS),
    "month": lambda rng: rng.choice(words.MONTHS),
    "score": lambda rng: f"{rng.randint(3, 6)}-{rng.randint(0, 2)}",
}


class Story:
    """The values behind one event: each slot is drawn once, and no value serves two slots."""

    def __init__(self, kind: words.Kind, rng: random.Random):
        self.kind, self.rng = kind, rng
        self.values: dict[str, str] = {}
        self.taken: set[str] = set()

    def value(self, slot: str) -> str:
        """Return the slot's value, drawing one with words and numbers that the story does not have yet."""
        if slot not in self.values:
            self.values[slot] = self._draw(slot.split("_")[0])
        return self.values[slot]

    def _draw(self, kind_of_value: str) -> str:
        choices = self.kind.words.get(kind_of_value)
        for _ in range(100):
            value = self.rng.choice(choices) if choices else SLOTS[kind_of_value](self.rng)
            # "Mary Hill" must clash with "Mary Dale", and "35 percent" with the age 35; units may repeat.
            parts = {value} if choices else set(value.split()) - {"million", "percent", *words.MONTHS[:-1]}
            parts -= {*words.ROAD_ENDS, *words.COMPANY_ENDS, *words.MONTHS} - {value}
            if not parts & self.taken:
                self.taken |= parts
                return value
        raise ValueError(f"no unused {kind_of_value} left in a story of kind {self.kind.name}")


class Text:
    """Sentences written one after the other, with the span of every slot's first mention."""

    def __init__(self, story: Story):
        self.story = story
        self.text = ""
        self.spans: dict[str, tuple[int, int]] = {}

    def write(self, template: str, separator: str = " ") -> None:
        """Append one sentence: fill its slots, fix a/an and the capital."""
        start = len(self.text) + len(separator) if self.text else 0
        self.text += separator if self.text else ""
        for i, piece in enumerate(SLOT.split(template)):
            if not piece:
                continue
            value = self._mention(piece) if i % 2 else piece
            if i % 2 and NEEDS_AN.match(value) and re.search(r"\b[Aa] $", self.text[start:]):
                self.text = self.text[:-1] + "n "
            if len(self.text) == start:
                value = value[0].upper() + value[1:]
            if i % 2 and piece not in self.spans:
                self.spans[piece] = (len(self.text), len(self.text) + len(value))
            self.text += value

    def _mention(self, slot: str) -> str:
        value = self.story.value(slot)
        again = slot in self.spans and slot.startswith("person")
        return value.split()[-1] if again else value


def pick(wordings: words.Wordings, rng: random.Random) -> str:
    """Choose one wording and settle its alternatives."""
    return ALTERNATIVES.sub(lambda match: rng.choice(match[1].split("|")), rng.choice(wordings))


def report(story: Story, points: list[words.Point], rng: random.Random, follow_rate: float, asides: int) -> Text:
    """Write an article: the lead, facts and distractors in any order, later mentions after first ones."""
    kind = story.kind
    body = [pick(wordings, rng) for point in points for wordings in point.article]
    body += [pick(wordings, rng) for wordings in rng.sample(kind.aside + words.ANYWHERE, asides)]
    rng.shuffle(body)
    sentences = [pick(kind.lead, rng), *body]
    for wordings in rng.sample(kind.follow, len(kind.follow)):
        sentence = pick(wordings, rng)
        slots = SLOT.findall(sentence)
        first = [next((i for i, s in enumerate(sentences) if f"{{{slot}}}" in s), None) for slot in slots]
        if None not in first and rng.random() < follow_rate:
            sentences.insert(rng.randint(max(first) + 1, len(sentences)), sentence)
    text = Text(story)
    for sentence in sentences:
        text.write(sentence)
    return text


def draw_event(rng: random.Random) -> tuple[Story, list[words.Point]]:
    """Draw what happened: a kind of event and which of its optional points the report has."""
    kind = rng.choice(words.KINDS)
    return Story(kind, rng), [point for point in kind.points if not point.optional or rng.random() < 0.4]


def make_row(seed: int, split: str, number: int) -> dict:
    """Make one row of the sample from nothing but its seed, split and number."""
    rng = random.Random(f"{seed}/{split}/{number}")
    story, points = draw_event(rng)
    article = report(story, points, rng, follow_rate=0.4, asides=rng.choice([0, 1, 1, 2, 2, 2, 3, 3, 4, 6]))
    highlights = Text(story)
    for point in points:
        highlights.write(pick(point.highlight, rng), separator="\n")
    facts = []
    for slot, (highlight_start, highlight_end) in highlights.spans.items():
        start, end = article.spans[slot]
        facts.append(
            {
                "text": article.text[start:end],
                "start": start,
                "end": end,
                "highlight_start": highlight_start,
                "highlight_end": highlight_end,
            }
        )
    return {
        "article": article.text,
        "highlights": highlights.text,
        "id": f"{split}-{number:05d}",
        "kind": story.kind.name,
        "facts": facts,
    }


def pretraining_text(seed: int, number: int) -> str:
    """Make one document for pre-training: an article, often with a second one about the same event.

    Half of the time it is the same report again, as when two papers print an agency's text; a quarter of the time
    another report, with the same people, places and numbers in other sentences and another order. Predicting either
    rewards looking back and copying. Highlights are never part of it.
    """
    rng = random.Random(f"{seed}/pretraining/{number}")
    story, points = draw_event(rng)
    text = report(story, points, rng, follow_rate=0.6, asides=rng.choice([0, 1, 2, 2, 3])).text
    share = rng.random()
    if share < 0.5:
        text += "\n\n" + text
    elif share < 0.75:
        text += "\n\n" + report(story, points, rng, follow_rate=0.3, asides=0).text
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "sample", help="folder to write")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of every row (default {SEED})")
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=size, help=f"rows of this split (default {size})")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        rows = [make_row(args.seed, split, number) for number in range(getattr(args, split))]
        path = args.output / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")
        print(f"{path}: {len(rows)} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
