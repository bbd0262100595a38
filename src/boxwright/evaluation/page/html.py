"""Small pieces of HTML: whatever comes from the data is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from boxwright.writing import printable


def text(value: object) -> str:
    r"""Anything as text of a page, with control characters and markup escaped.

    >>> text("<b>\x00")
    '&lt;b&gt;\\x00'
    """
    return escape(printable(str(value)))


def fraction(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where it is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; cells are HTML, columns of `words` are set as text."""
    top = "".join(
        f'<th scope="col"{" class=text" if place in words else ""}>{text(head)}</th>'
        for place, head in enumerate(heads)
    )
    body = []
    for first, *rest in rows:
        cells = "".join(
            f'<td class="text">{cell}</td>' if place in words else f"<td>{cell}</td>"
            for place, cell in enumerate(rest, 1)
        )
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
