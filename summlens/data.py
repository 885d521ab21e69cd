"""Articles in, tokens out: loading, cleaning, prompts, and batches (DESIGN.md, "Text in, tokens out")."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One article and its summary as the model reads them: prompt, then summary, then end-of-text.

    `input_ids` holds n prompt tokens and m target tokens (summary and end-of-text), T = n + m in all.
    """

    id: str
    input_ids: tuple[int, ...]
    prompt_length: int  # n: the first summary token stands at index n
    article_start: int  # the article's tokens are input_ids[article_start:article_stop]
    article_stop: int

    @property
    def queries(self) -> range:
        """The query positions that predict summary tokens: n - 1 .. T - 2; query t predicts input_ids[t + 1]."""
        return range(self.prompt_length - 1, len(self.input_ids) - 1)
