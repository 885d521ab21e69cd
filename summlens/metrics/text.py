"""Scores of a summary and extractive baselines: text in, numbers out.

Every share and every ROUGE or METEOR is in points (x 100).

rouge1 rouge2 rougeL rougeLsum   F1 by the package rouge_score with Porter stemming (Lin, 2004); rougeLsum is the
                         summary-level ROUGE-L with one sentence a line on both sides. rouge_score knows ASCII letters
                         and digits only, so a text in another script scores 0.
meteor                   nltk's meteor_score (Lavie & Agarwal, 2007) on nltk's word tokens, with WordNet synonyms; named
                         `meteor_no_synonyms` where no WordNet is at hand, so that the two are never mixed up.
length                   words
compression              words of the article / words of the summary
novel_unigrams, _bigrams, _trigrams
                         share of the summary's distinct n-grams that the article does not contain (See et al., 2017,
                         section 7.2; Narayan et al., 2018, section 4), lower-cased
repetition               share of the summary's trigrams that repeat an earlier one
unsupported              share of the distinct named entities (runs of capitalised words, the first word of a sentence
                         apart) and numbers of the summary that the article does not contain: a factuality proxy

A score is NaN where its denominator is 0 (no bigram, no entity); an empty summary has ROUGE, METEOR and length 0.

Sentences are split by nltk's punkt model where its data are installed, else by the same algorithm (Kiss & Strunk,
2006) with the short list of abbreviations below instead of a trained one: no data needed.
"""

import io
import os
import random
import re
import warnings
import zipfile
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path

from summlens.core.errors import UserError

ROUGE_RECIPES = ("rouge_score", "1.5.5")
_ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_NGRAMS = {"novel_unigrams": 1, "novel_bigrams": 2, "novel_trigrams": 3}
# fmt: off
_ABBREVIATIONS = {
    "mr", "mrs", "ms", "dr", "prof", "rev", "fr", "hon", "gov", "sen", "rep", "pres", "gen", "col", "lt", "maj", "capt",
    "cmdr", "sgt", "cpl", "pvt", "adm", "supt", "insp", "det", "st", "ste", "mt", "ft", "jr", "sr", "bros", "inc",
    "corp", "co", "ltd", "plc", "cos", "dept", "univ", "assn", "ph.d", "etc", "vs", "v", "approx", "jan", "feb", "mar",
    "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "ave", "blvd", "rd", "hwy",
}
_BEFORE_NUMBERS = {"no", "nos", "fig", "vol", "pp"}  # abbreviations only where a number follows
# Words that begin a new sentence when they follow an abbreviation with a capital letter: "in the U.S. The plan".
_STARTERS = {
    "the", "a", "an", "this", "that", "these", "those", "he", "she", "it", "they", "we", "you", "i", "his", "her",
    "its", "their", "our", "my", "there", "here", "but", "and", "or", "so", "yet", "then", "if", "when", "while",
    "after", "before", "as", "at", "in", "on", "for", "from", "with", "by", "since", "although", "though", "however",
    "meanwhile", "both", "some", "many", "most", "what", "who", "why", "how", "where", "police", "officials",
}
_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}
# fmt: on
_WORTH_SHARING = 2000  # articles: a process needs some seconds to start
_WORD = re.compile(r"\w+(?:[-'’.,&]\w+)*")
_POSSESSIVE = re.compile(r"['’]s\b")
_NUMBER = re.compile(r"(?<!\w)\d+(?:[.,]\d+)*")


def sentences(text: str) -> list[str]:
    """The sentences of `text`: a line break ends one, and so does what the splitter takes for a full stop."""
    lines = (line.strip() for line in text.splitlines())
    return [sentence for line in lines if line for sentence in _splitter()[1].tokenize(line)]


def reference_sentences(text: str) -> list[str]:
    """The sentences of a reference: its lines as they are where there are several, as in CNN/DailyMail."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else sentences(text)


def tools() -> dict[str, str]:
    """Which sentence splitter and which WordNet the scores use here: what a report must say beside them."""
    found = _wordnet()
    return {"sentence_splitter": _splitter()[0], "wordnet": found[0] if found else "none: METEOR without synonyms"}


class Scorer:
    """All scores of one summary against its reference and its article.

    Args:
        rouge_recipe: "rouge_score" is that package as it is. "1.5.5" is what ROUGE-1.5.5.pl -m does: the original
            Porter algorithm, and before it the exception lists of WordNet (for words of more than three letters).
            Figures of the summarisation papers from before about 2020 were made with it; they are 0.2 to 0.4 points
            higher. Raises UserError where the lists are not on this machine.
    """

    def __init__(self, rouge_recipe: str = "rouge_score"):
        from nltk.translate.meteor_score import meteor_score
        from rouge_score.rouge_scorer import RougeScorer

        self._rouge = RougeScorer(list(_ROUGE), tokenizer=_RougeTokenizer(rouge_recipe))
        found = _wordnet()
        self._meteor = partial(meteor_score, stemmer=_Porter(), wordnet=_Synsets(found[1] if found else None))
        self.meteor_name = "meteor" if found else "meteor_no_synonyms"

    def rouge(self, prediction: list[str], reference: list[str]) -> dict[str, float]:
        """ROUGE F1 of two summaries, given as lists of sentences."""
        scores = self._rouge.score("\n".join(reference), "\n".join(prediction))
        return {name: 100.0 * scores[name].fmeasure for name in _ROUGE}

    def meteor(self, prediction: list[str], reference: list[str]) -> float:
        """METEOR of two summaries, given as lists of sentences."""
        return 100 * self._meteor([_nltk_words(reference)], _nltk_words(prediction))

    def score(self, prediction: str, reference: str, article: str) -> dict[str, float]:
        """Every score of the module's docstring."""
        ours, theirs = sentences(prediction), reference_sentences(reference)
        return {
            **self.rouge(ours, theirs),
            self.meteor_name: self.meteor(ours, theirs),
            **surface_scores(prediction, article),
        }


def surface_scores(summary: str, article: str) -> dict[str, float]:
    """The scores that need no reference: length, compression, novelty, repetition, unsupported."""
    ours, theirs = _words(summary), _words(article)
    scores = {
        "length": float(len(ours)),
        "compression": len(theirs) / len(ours) if ours else float("nan"),
    }
    for name, n in _NGRAMS.items():
        distinct = set(_ngrams(ours, n))
        scores[name] = _share(len(distinct - set(_ngrams(theirs, n))), len(distinct))
    trigrams = _ngrams(ours, 3)
    scores["repetition"] = _share(len(trigrams) - len(set(trigrams)), len(trigrams))
    scores["unsupported"] = _unsupported(summary, article, theirs)
    return scores


def score_all(
    predictions: list[str],
    references: list[str],
    articles: list[str],
    rouge_recipe: str = "rouge_score",
    processes: int | None = None,
) -> dict[str, list[float]]:
    """`Scorer.score` for every article: {score: [A]}. `processes` is how many share the work (default: one a core)."""
    _scorer(rouge_recipe)  # what cannot be scored is said here, once, and not by every process
    rows = _in_parallel(_score_one, [rouge_recipe] * len(articles), predictions, references, articles, n=processes)
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def extractive_baselines(
    ids: list[str], articles: list[str], references: list[str], seed: int = 0, processes: int | None = None
) -> dict[str, list[str]]:
    """Lead-3, a random three and the greedy oracle of every article, one sentence a line: {system: [A]}.

    `random3` depends on `seed` and on the article's id only, not on which other articles there are.
    """
    rows = _in_parallel(_baselines_one, ids, articles, references, [seed] * len(ids), n=processes)
    return {name: ["\n".join(row[name]) for row in rows] for name in ("lead3", "random3", "oracle")}


def lead(article: list[str], count: int = 3) -> list[str]:
    """The first `count` sentences."""
    return article[:count]


def random_sentences(article: list[str], key: str, count: int = 3) -> list[str]:
    """`count` sentences drawn by `key` without replacement, in the article's order."""
    drawn = random.Random(key).sample(range(len(article)), min(count, len(article)))
    return [article[index] for index in sorted(drawn)]


def greedy_oracle(article: list[str], reference: list[str]) -> list[str]:
    """The extract that greedily maximises ROUGE-1 F1 + ROUGE-2 F1 against the reference, in the article's order.

    Sentences are added one at a time, the best first, until none raises the sum (Nallapati et al., 2017, section 3.1;
    without BertSum's limit of three sentences). Tokens are rouge_score's, stemmed; n-grams stay within a sentence.
    """
    tokenize = _rouge_tokenizer().tokenize
    target = [Counter(), Counter()]
    for sentence in reference:
        tokens = tokenize(sentence)
        for n in (1, 2):
            target[n - 1].update(_ngrams(tokens, n))
    wanted = [sum(counts.values()) for counts in target]
    candidates = []
    for index, sentence in enumerate(article):
        tokens = tokenize(sentence)
        # Only n-grams that the reference has can match; of the others the number is enough.
        matching = [Counter(gram for gram in _ngrams(tokens, n) if gram in target[n - 1]) for n in (1, 2)]
        if matching[0]:
            candidates.append((index, matching, [len(tokens), max(len(tokens) - 1, 0)]))

    chosen, best = [], 0.0
    have, sizes = [Counter(), Counter()], [0, 0]
    while candidates:
        gains = []
        for candidate in candidates:
            _, matching, added = candidate
            value = 0.0
            for n in (0, 1):
                # The hits so far, and what the new sentence adds to them, clipped at the reference's counts.
                hits = sum(min(have[n][gram], count) for gram, count in target[n].items() if gram in have[n])
                for gram, count in matching[n].items():
                    hits += min(have[n][gram] + count, target[n][gram]) - min(have[n][gram], target[n][gram])
                total = sizes[n] + added[n] + wanted[n]
                value += 2 * hits / total if total else 0.0
            gains.append(value)
        top = max(gains)
        if top <= best:
            break
        best = top
        index, matching, added = candidates.pop(gains.index(top))
        chosen.append(index)
        for n in (0, 1):
            have[n].update(matching[n])
            sizes[n] += added[n]
    return [article[index] for index in sorted(chosen)]


class _Porter:
    """nltk's Porter stemmer (in nltk's own mode unless told), after a dictionary of exceptions."""

    def __init__(self, mode: str = "NLTK_EXTENSIONS", exceptions: dict[str, str] | None = None):
        from nltk.stem.porter import PorterStemmer

        porter, exceptions = PorterStemmer(mode), exceptions or {}
        self.stem = lru_cache(maxsize=1 << 18)(lambda word: exceptions.get(word) or porter.stem(word))


class _RougeTokenizer:
    """rouge_score's own tokenisation (its DefaultTokenizer), each distinct word stemmed once."""

    def __init__(self, recipe: str):
        from nltk.stem.porter import PorterStemmer

        if recipe == "rouge_score":
            self._stemmer = _Porter()
        elif recipe == "1.5.5":
            self._stemmer = _Porter(PorterStemmer.ORIGINAL_ALGORITHM, _wordnet_exceptions())
        else:
            raise UserError(f"unknown ROUGE recipe {recipe!r}: choose one of {', '.join(ROUGE_RECIPES)}")

    def tokenize(self, text: str) -> list[str]:
        from rouge_score.tokenize import tokenize

        return tokenize(text, self._stemmer)


class _Synsets:
    """What meteor_score asks of a WordNet, each word looked up once; without a WordNet no word has a synonym."""

    def __init__(self, wordnet):
        self.synsets = lru_cache(maxsize=1 << 16)(wordnet.synsets) if wordnet else lambda word: []


class _Abbreviations(set):
    """The abbreviations listed, and every row of letters with full stops between them: u.s, p.m, m.i.t."""

    def __contains__(self, word):
        return super().__contains__(word) or re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word) is not None


@lru_cache(maxsize=1)
def _splitter():
    """(name, object with `tokenize`) of the sentence splitter."""
    from nltk.tokenize import punkt

    try:
        return "nltk punkt (english)", punkt.PunktTokenizer("english")
    except (LookupError, OSError, zipfile.BadZipFile):
        parameters = punkt.PunktParameters()
        parameters.abbrev_types = _Abbreviations(_ABBREVIATIONS)
        parameters.collocations = {(word, "##number##") for word in _BEFORE_NUMBERS}
        parameters.sent_starters = _STARTERS
        return "punkt algorithm, built-in abbreviations", punkt.PunktSentenceTokenizer(parameters)


@lru_cache(maxsize=1)
def _wordnet():
    """(where it was found, nltk's reader of it), or None where this machine has no WordNet."""
    import nltk
    from nltk.corpus import wordnet
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    try:
        wordnet.ensure_loaded()
        return f"nltk data, WordNet {wordnet.get_version()}", wordnet
    except (LookupError, OSError, zipfile.BadZipFile):
        pass

    class DatabaseReader(WordNetCorpusReader):
        """The files of Princeton's distribution alone, without the two that only nltk's copy adds."""

        def open(self, file):
            if file == "lexnames":  # names of lexicographer files: a synset keeps one, METEOR never reads it
                return io.StringIO("".join(f"{number:02d}\tlexname{number:02d}\t0\n" for number in range(45)))
            return super().open(file)

        def map_wn(self, version="wordnet"):
            return None  # a mapping between WordNet versions, which only other languages need

    places = (os.environ.get("WNSEARCHDIR"), "/usr/share/wordnet", "/usr/local/WordNet-3.0/dict")
    for place in filter(None, places):
        if not all((Path(place) / name).is_file() for name in ("index.noun", "data.noun", "noun.exc")):
            continue
        if place not in nltk.data.path:
            nltk.data.path.append(place)  # nltk opens files below these directories only
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other languages are not available
            reader = DatabaseReader(place, None)
        return f"{place}, WordNet {reader.get_version()}", reader
    return None


@lru_cache(maxsize=1)
def _wordnet_exceptions() -> dict[str, str]:
    """{irregular form: base form} of WordNet's four exception lists; of a form in two lists the later one's."""
    found = _wordnet()
    if found is None:
        raise UserError(
            "ROUGE recipe 1.5.5 needs WordNet's exception lists: `apt-get install wordnet-base`, or "
            "`python -m nltk.downloader wordnet`, or set WNSEARCHDIR to the directory that holds noun.exc"
        )
    exceptions = {}
    for part in ("adj", "adv", "noun", "verb"):
        with found[1].open(f"{part}.exc") as file:
            exceptions.update(line.split()[:2] for line in file if line.strip())
    return exceptions


@lru_cache(maxsize=len(ROUGE_RECIPES))
def _scorer(rouge_recipe: str) -> Scorer:
    return Scorer(rouge_recipe)


@lru_cache(maxsize=1)
def _rouge_tokenizer() -> _RougeTokenizer:
    return _RougeTokenizer("rouge_score")


def _score_one(rouge_recipe, prediction, reference, article):
    return _scorer(rouge_recipe).score(prediction, reference, article)


def _baselines_one(identity, article, reference, seed):
    split = sentences(article)
    return {
        "lead3": lead(split),
        "random3": random_sentences(split, f"{seed}:{identity}"),
        "oracle": greedy_oracle(split, reference_sentences(reference)),
    }


def _in_parallel(function, *columns, n):
    """[function(*row) for row in zip(*columns)], over processes where there is enough to share out."""
    rows = list(zip(*columns, strict=True))
    if n is None:
        n = os.cpu_count() or 1
    if n == 1 or len(rows) < _WORTH_SHARING:
        return [function(*row) for row in rows]
    from joblib import Parallel, delayed

    size = min(256, -(-len(rows) // n))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [
        result for part in Parallel(n_jobs=n)(delayed(_each)(function, chunk) for chunk in chunks) for result in part
    ]


def _each(function, rows):
    return [function(*row) for row in rows]


def _nltk_words(lines: list[str]) -> list[str]:
    from nltk.tokenize import word_tokenize

    return [word for line in lines for word in word_tokenize(line, preserve_line=True)]


def _words(text: str) -> list[str]:
    """Lower-cased words, without a possessive 's."""
    return _WORD.findall(_POSSESSIVE.sub("", text.lower()))


def _ngrams(tokens: list[str], n: int) -> list:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else float("nan")


def _unsupported(summary: str, article: str, words: list[str]) -> float:
    names = {name for sentence in sentences(summary) for name in _capitalised_runs(sentence)}
    numbers = _numbers(summary)
    if not names and not numbers:
        return float("nan")
    text = f" {' '.join(words)} "
    known = _numbers(article) | {_NUMBER_WORDS[word] for word in words if word in _NUMBER_WORDS}
    missing = sum(f" {name} " not in text for name in names) + len(numbers - known)
    return _share(missing, len(names) + len(numbers))


def _capitalised_runs(sentence: str) -> list[str]:
    """Runs of capitalised words, lower-cased. A word at the start of the sentence or of a quotation starts no run."""
    sentence = _POSSESSIVE.sub("", sentence)
    runs, run, end = [], [], 0
    for match in _WORD.finditer(sentence):
        word, gap = match[0], sentence[end : match.start()]
        starts_anew = end == 0 or any(mark in gap for mark in '"“‘:')
        end = match.end()
        capitalised = word[0].isupper() and word not in ("I", "I'm", "I'd", "I'll", "I've")
        # An initial's full stop does not end a name: "Samuel L. Jackson".
        joined = gap.isspace() or (gap.strip() == "." and bool(run) and len(run[-1]) == 1)
        if run and not (capitalised and joined):
            runs.append(run)
            run = []
        if capitalised and not starts_anew:
            run.append(word.lower())
    return [" ".join(words) for words in (*runs, run) if words]


def _numbers(text: str) -> set[str]:
    return {match[0].replace(",", "") for match in _NUMBER.finditer(text)}
