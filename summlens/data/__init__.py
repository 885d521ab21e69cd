"""Articles in, tokens out: cleaning, loading, encoding and batches, without any model."""

from summlens.data.articles import fingerprint, load_articles
from summlens.data.batches import ByLength, collate
from summlens.data.cleaning import clean_article, clean_summary, clean_text
from summlens.data.tokens import IGNORED, Encoder, Example, Examples, encode, lengths

__all__ = [
    "IGNORED",
    "ByLength",
    "Encoder",
    "Example",
    "Examples",
    "clean_article",
    "clean_summary",
    "clean_text",
    "collate",
    "encode",
    "fingerprint",
    "lengths",
    "load_articles",
]
