"""Tables in Markdown, for data cards."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table whose first `words` columns are words and whose others are numbers."""
    rule = [*["---"] * words, *["---:"] * (len(head) - words)]
    lines = ((_plain(cell) for cell in cells) for cells in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _plain(cell: str) -> str:
    """A cell may come from a record: keep it in its cell, and a text."""
    return " ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
