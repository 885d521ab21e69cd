"""Cleaning: what of an article's and a summary's text is not text (docs/definitions.md, rule 2)."""

import re
import unicodedata

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff\ufffd"))  # soft hyphen, zero-width space, BOM …
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and lone surrogates
_SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # '<|endoftext|>' in an article is text, never a token
_DATELINE = re.compile(r"^([^.!?]|\b(St|ST|Mt|MT|Ft|FT|U|S|N|D|C)\.){0,60}?\(CNN[^)]{0,30}\)\s*(--?|[–—:])?\s*")
_BYLINE = re.compile(r"^By\s*\.\s+[^.]{2,80}?\s*\.\s+((and|Follow)\b[^.]{2,60}?\s*\.\s+)*")
_TIMESTAMP = re.compile(
    r"(PUBLISHED|UPDATED|Last updated at)\s*:?\s*\.?\s*\d{1,2}[:.]\d{2}\s*(AM|PM|EST|GMT|BST|EDT)?,?\s*(on\s)?"
    r"(\d{1,2}(st|nd|rd|th)?\s\w+\s\d{4})\s*\.?\s*(\|\s*\.?\s*)?"
)


def clean_text(text: str) -> str:
    """Unicode in composed form, without control characters, invisible characters and special-token strings.

    Line breaks stay; other white space is folded. Composed form (NFC), not compatibility form: the latter would
    turn 5½ into 51⁄2.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).translate(_INVISIBLE)
    text = _SPECIAL_TOKEN.sub(" ", text)
    text = _CONTROL.sub(" ", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines()).strip()


def clean_article(text: str) -> str:
    """An article on one line, without CNN/DailyMail's own bylines, time stamps, datelines and ' .' line ends."""
    text = " ".join(clean_text(text).split())
    text = _BYLINE.sub("", text)
    text = _TIMESTAMP.sub("", text)
    text = _DATELINE.sub("", text)
    return re.sub(r"\s+\.(?=\s|$)", ".", text).strip()


def clean_summary(text: str) -> str:
    """A summary with one sentence a line, as its source breaks it; CNN/DailyMail's ' .' line ends become '.'."""
    lines = (re.sub(r"\s+\.$", ".", line) for line in clean_text(text).split("\n"))
    return "\n".join(line for line in lines if line)
