"""Scores against hand-counted examples, rouge_score and nltk themselves, and slow loops."""

import itertools
import math
from collections import Counter

import pytest
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from summlens.core.errors import UserError
from summlens.metrics import text
from summlens.metrics.text import greedy_oracle, random_sentences, reference_sentences, sentences, surface_scores

ARTICLE = (
    "Mr. James T. Kirk, 34, visited Paris on Monday. The mayor, Anne Lee, welcomed him with 1,200 "
    "guests. They discussed two bridges over the river. Rain fell all day. Police closed three roads in the "
    "U.S. embassy quarter."
)
REFERENCE = "James Kirk visits Paris .\nMayor Anne Lee welcomed 1,200 guests .\nThree roads were closed ."


@pytest.fixture(scope="module")
def scorer():
    return text.Scorer()


# Sentences -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline_splitter(monkeypatch):
    """The splitter as it is where nltk's data are not installed."""
    from nltk.tokenize import punkt

    def absent(*arguments):
        raise LookupError

    monkeypatch.setattr(punkt, "PunktTokenizer", absent)
    text._splitter.cache_clear()
    yield
    text._splitter.cache_clear()


@pytest.mark.parametrize(
    "expected",
    [
        ["Mr. J. R. Smith met Gov. Lee in the U.S.", "The deal is worth $4.5 million."],
        ["She left at 5 p.m. on Sunday.", "He has a Ph.D. from M.I.T. and won."],
        ['"It is over," he said.', 'She said: "No."', "Then it ended."],
        ["Was it No. 5?", "Yes!", "It was (he thought)."],
        ["the icon was not booked .", "the u.s. team lost 4.5 - 3 ."],
        ["no full stop at the end"],
    ],
)
def test_offline_splitter(offline_splitter, expected):
    assert text.tools()["sentence_splitter"].startswith("punkt algorithm")
    assert sentences(" ".join(expected)) == expected


def test_line_breaks_end_sentences_and_reference_lines_stay():
    assert sentences("one line\n\n two words \nHe left. She stayed.") == [
        "one line",
        "two words",
        "He left.",
        "She stayed.",
    ]
    assert reference_sentences("He left. She stayed .\n \nRain fell .") == ["He left. She stayed .", "Rain fell ."]
    assert reference_sentences("He left. She stayed.\n") == ["He left.", "She stayed."]
    assert sentences("") == sentences(" \n\t") == reference_sentences("\n") == []


# ROUGE ---------------------------------------------------------------------------------------------------------------


def test_rouge_counted_by_hand(scorer):
    # prediction: the cat sat | on mats, 5 tokens; reference: on a mat | the cats sat down, 7 tokens; stems cat, mat
    scores = scorer.rouge(["The cat sat", "on mats"], ["on a mat", "the cats sat down"])
    assert scores["rouge1"] == pytest.approx(100 * 2 * 5 / (5 + 7))
    assert scores["rouge2"] == pytest.approx(100 * 2 * 2 / (4 + 6))  # the cat, cat sat
    assert scores["rougeL"] == pytest.approx(100 * 2 * 3 / (5 + 7))  # the cat sat
    assert scores["rougeLsum"] == pytest.approx(100 * 2 * 5 / (5 + 7))  # every sentence finds its own


def test_rouge_is_rouge_score_with_stemming(scorer):
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    predictions = ["Kirk was visiting Paris.\nClosed roads, 1,200 guests.", "Anne Lee's welcoming mayors", "é ü", ""]
    for prediction in predictions:
        expected = theirs.score(REFERENCE, prediction)
        ours = scorer.score(prediction, REFERENCE, ARTICLE)
        for name in expected:
            assert ours[name] == pytest.approx(100 * expected[name].fmeasure, abs=1e-12), (prediction, name)
    both = scorer.score(predictions[0], REFERENCE, ARTICLE)
    assert both["rougeLsum"] > both["rougeL"] > 0


def test_prediction_in_one_paragraph_is_split_for_rougelsum(scorer):
    paragraph = "Three roads were closed. James Kirk visits Paris."
    lines = paragraph.replace(". ", ".\n")
    reference = "James Kirk visits Paris, and three roads were closed."
    scores = scorer.score(paragraph, reference, ARTICLE)
    assert scores == pytest.approx(scorer.score(lines, reference, ARTICLE), nan_ok=True)
    assert scores["rougeLsum"] == pytest.approx(100 * 2 * 8 / (8 + 9))
    # in one piece only the four words of one of the clauses would be in the reference's order
    assert scores["rougeL"] == pytest.approx(100 * 2 * 4 / (8 + 9))


class Exceptions:
    """A WordNet that has exception lists only."""

    lists = {
        "adj": "worse bad\n",
        "adv": "",
        "noun": "mice mouse\nran run\nfelt felt\n",
        "verb": "went go\nfelt feel\n",
    }

    def open(self, name):
        from io import StringIO

        return StringIO(self.lists[name.removesuffix(".exc")])


@pytest.fixture
def wordnet(monkeypatch):
    """Sets what `_wordnet` finds, and forgets afterwards what was made from it."""

    def found(value):
        monkeypatch.setattr(text, "_wordnet", lambda: value)
        text._wordnet_exceptions.cache_clear()
        text._scorer.cache_clear()

    yield found
    text._wordnet_exceptions.cache_clear()
    text._scorer.cache_clear()


def test_recipe_155_stems_by_exceptions_first_and_the_original_porter(wordnet):
    wordnet(("a test", Exceptions()))
    tokenizer = text._RougeTokenizer("1.5.5")
    # `ran` has three letters and is no word for the stemmer; of two lists the later one counts; enjoy differs in modes
    words = "mice worse went ran felt walking enjoyed dies"
    porter = PorterStemmer(PorterStemmer.ORIGINAL_ALGORITHM)
    expected = ["mouse", "bad", "go", "ran", "feel", *map(porter.stem, ["walking", "enjoyed", "dies"])]
    assert tokenizer.tokenize(words) == expected
    assert text._RougeTokenizer("rouge_score").tokenize(words) == tokenize(words, PorterStemmer()) != expected


def test_recipe_155_without_the_lists_is_one_line(wordnet):
    wordnet(None)
    with pytest.raises(UserError, match="wordnet-base"):
        text.score_all(["a"], ["b"], ["c"], rouge_recipe="1.5.5")
    with pytest.raises(UserError, match="unknown ROUGE recipe"):
        text.Scorer("2.0")


# METEOR --------------------------------------------------------------------------------------------------------------


class Lemma:
    def __init__(self, name):
        self._name = name

    def name(self):
        return self._name


class Synset:
    def lemmas(self):
        return [Lemma("car"), Lemma("auto")]


class Automobiles(Exceptions):
    """A WordNet that knows one synset."""

    def synsets(self, word):
        return [Synset()] if word in ("car", "auto") else []


@pytest.mark.parametrize("known", [Automobiles(), None])
def test_meteor_is_nltks_on_its_word_tokens(wordnet, known):
    wordnet(("a test", known) if known else None)
    scorer = text.Scorer()
    assert scorer.meteor_name == ("meteor" if known else "meteor_no_synonyms")
    prediction, reference = ["The auto's wheels weren't turning."], ["A car's wheel was not turned.", "He left."]
    tokens = [
        ["The", "auto", "'s", "wheels", "were", "n't", "turning", "."],
        ["A", "car", "'s", "wheel", "was", "not", "turned", ".", "He", "left", "."],
    ]

    class Nothing:
        def synsets(self, word):
            return []

    expected = meteor_score([tokens[1]], tokens[0], wordnet=known or Nothing())
    assert scorer.meteor(prediction, reference) == pytest.approx(100 * expected)
    # 's, wheel, turn and the full stop match; car only where its synonym is known
    assert expected > 0 and (expected > meteor_score([tokens[1]], tokens[0], wordnet=Nothing())) == bool(known)


def test_wordnet_of_this_machine():
    found = text._wordnet()
    if found is None:
        pytest.skip("no WordNet on this machine (nltk data, or Debian's wordnet-base)")
    names = {lemma.name() for synset in found[1].synsets("cars") for lemma in synset.lemmas()}
    assert {"car", "automobile"} <= names
    assert text._wordnet_exceptions()["mice"] == "mouse"
    assert text._wordnet_exceptions()["went"] == "go"


# Surface scores ------------------------------------------------------------------------------------------------------


def test_surface_scores_counted_by_hand():
    article = "The red fox saw the dog. The dog ran."  # 9 words
    summary = "The red dog saw the red dog. The red dog."  # 10 words
    scores = surface_scores(summary, article)
    assert scores["length"] == 10
    assert scores["compression"] == pytest.approx(9 / 10)
    assert scores["novel_unigrams"] == 0
    # bigrams: the red, red dog, dog saw, saw the, dog the: red dog and dog saw are new
    assert scores["novel_bigrams"] == pytest.approx(100 * 2 / 5)
    # trigrams: the red dog x3, red dog saw, dog saw the, saw the red, red dog the, dog the red
    assert scores["repetition"] == pytest.approx(100 * 2 / 8)
    assert scores["novel_trigrams"] == pytest.approx(100 * 6 / 6)
    assert math.isnan(scores["unsupported"])


@pytest.mark.parametrize(
    ("summary", "missing", "all_of_them"),
    [
        ("Mr. James Kirk met Anne Lee in Paris.", 1, 3),  # "James Kirk": the article has James T. Kirk
        ("The mayor, Anne Lee's guest, came to London and Paris.", 1, 3),
        ("Guests (1200) came on Sunday, 34 of 50.", 2, 4),  # 1200 is 1,200; Sunday and 50 are not in the article
        ("About 3 roads and 2 bridges. Nobody came.", 0, 2),  # written in words there
        ("Yesterday I said it, and I'm sorry.", 0, 0),
        ('He said: "Nobody told Kirk" before lunch.', 0, 1),  # a quotation's first word starts a sentence
        ("visitor James T. Kirk left", 0, 1),
        ("", 0, 0),
    ],
)
def test_unsupported_names_and_numbers(summary, missing, all_of_them):
    share = surface_scores(summary, ARTICLE)["unsupported"]
    if all_of_them:
        assert share == pytest.approx(100 * missing / all_of_them)
    else:
        assert math.isnan(share)


# Odd texts -----------------------------------------------------------------------------------------------------------

ODD = [
    "",
    " \n ",
    ".",
    "\x00\x07\x1b[0m",
    "שלום עולם. مرحبا",
    "🎉🎉 👩‍👩‍👧",
    "a" * 50_000,
    "\n".join("abc"),
    "\ufeff\u200b\u2028x",
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_texts_are_scored(scorer, odd):
    for triple in itertools.permutations([odd, REFERENCE, ARTICLE]):
        scores = scorer.score(*triple)
        assert all(isinstance(value, float) and not math.isinf(value) for value in scores.values())
    baselines = text.extractive_baselines(["a"], [odd], [odd], seed=1)
    assert all(len(column) == 1 and isinstance(column[0], str) for column in baselines.values())


def test_empty_summary_scores_zero(scorer):
    scores = scorer.score("", REFERENCE, ARTICLE)
    quality = ("rouge1", "rouge2", "rougeL", "rougeLsum", scorer.meteor_name, "length")
    assert [scores[name] for name in quality] == [0.0] * len(quality)


def test_very_long_article(scorer):
    article = " ".join(
        f"The number {n % 977} came to Mr. Lee in town {n % 13}." for n in range(10_000)
    )  # 100,000 words
    assert surface_scores("Mr. Lee in town 12.", article)["unsupported"] == 0
    baselines = text.extractive_baselines(["x"], [article], ["The number 976 came."])
    assert "976" in baselines["oracle"][0]


def test_processes_keep_the_order(monkeypatch):
    monkeypatch.setattr(text, "_WORTH_SHARING", 2)
    expected = [100 * part / 7 for part in range(50)]
    assert text._in_parallel(text._share, range(50), [7] * 50, n=2) == expected
    assert text._in_parallel(text._share, range(50), [7] * 50, n=1) == expected


# Baselines -----------------------------------------------------------------------------------------------------------


def test_lead_and_random():
    baselines = text.extractive_baselines(["a", "b"], [ARTICLE, "One. Two."], [REFERENCE, "Two."], seed=3)
    split = sentences(ARTICLE)
    assert baselines["lead3"] == ["\n".join(split[:3]), "One.\nTwo."]
    assert baselines["random3"][1] == "One.\nTwo."
    drawn = baselines["random3"][0].split("\n")
    assert len(drawn) == 3 and drawn == [sentence for sentence in split if sentence in drawn]
    # by article and seed, not by what else is evaluated
    assert text.extractive_baselines(["a"], [ARTICLE], [REFERENCE], seed=3)["random3"][0] == baselines["random3"][0]
    many = {tuple(random_sentences(list("abcdefgh"), f"{seed}:a")) for seed in range(40)}
    assert len(many) > 20
    assert Counter(letter for three in many for letter in three).keys() == set("abcdefgh")


def slow_rouge_sum(chosen, reference):
    """ROUGE-1 F1 + ROUGE-2 F1 with n-grams within sentences, from the definition."""
    total = 0.0
    for n in (1, 2):
        grams = []
        for side in (chosen, reference):
            counts = Counter()
            for sentence in side:
                tokens = tokenize(sentence, PorterStemmer())
                counts.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            grams.append(counts)
        hits = sum((grams[0] & grams[1]).values())
        size = sum(grams[0].values()) + sum(grams[1].values())
        total += 2 * hits / size if size else 0.0
    return total


def slow_oracle(article, reference):
    chosen, best = [], 0.0
    while True:
        values = {
            index: slow_rouge_sum([article[i] for i in (*chosen, index)], reference)
            for index in range(len(article))
            if index not in chosen
        }
        if not values or max(values.values()) <= best + 1e-12:
            return [article[index] for index in sorted(chosen)]
        best = max(values.values())
        chosen.append(next(index for index, value in values.items() if value >= best - 1e-12))


def test_oracle_is_the_slow_greedy_loop():
    import random

    words = ["red", "fox", "sees", "dogs", "and", "runs", "to", "the", "old", "town", "where", "cats", "sleep"]
    generator = random.Random(4)
    for _ in range(30):
        article = [" ".join(generator.choices(words, k=generator.randrange(1, 7))) for _ in range(9)]
        reference = [" ".join(generator.choices(words, k=generator.randrange(1, 9))) for _ in range(3)]
        expected = slow_oracle(article, reference)
        assert slow_rouge_sum(greedy_oracle(article, reference), reference) == pytest.approx(
            slow_rouge_sum(expected, reference)
        )
        assert greedy_oracle(article, reference) == expected
    assert greedy_oracle(["nothing fits"], ["red fox"]) == []
    assert greedy_oracle([], ["red fox"]) == greedy_oracle(["red fox"], []) == []
