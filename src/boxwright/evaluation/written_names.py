"""Names in result files: any class or image name can be written and read back unchanged.

Class names become file names (VOC) and the first words of a row (text). Characters that are not possible there are
percent-encoded, as in a URL; other names are written as they are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import unquote

_NOT_IN_FILE_NAMES = re.compile(r'[/\\:*?"<>|%]')
_LINE_ENDS = "\x85\u2028\u2029"  # which some tools treat as the end of a row
_LONGEST = 180  # bytes of a name, so that with its suffix it is a valid file name on every system


def file_stems(names: Sequence[str]) -> list[str]:
    """A unique file name (without suffix) for each class name.

    They are unique also on file systems that ignore case.

    >>> file_stems(["w/o mask", "w-o mask", "Cat", "cat"])
    ['w%2Fo mask', 'w-o mask', 'Cat', '%63at']
    """
    stems: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        stem = _encoded(name, lambda letter: bool(_NOT_IN_FILE_NAMES.match(letter)) or _breaks_a_row(letter))
        for count in range(1, len(name) + 1):
            if _alike(stem) not in taken:
                break
            rest = _encoded(name[count:], lambda letter: bool(_NOT_IN_FILE_NAMES.match(letter)))
            stem = "".join(map(_code, name[:count])) + rest
        if len(stem.encode(errors="surrogatepass")) > _LONGEST:
            stem = f"{stem.encode(errors='surrogatepass')[: _LONGEST - 8].decode(errors='ignore')}~{number}"
        taken.add(_alike(stem))
        stems.append(stem)
    return stems


def names_of_stems(stems: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """The class that each file name stands for: one of the known names, or else the decoded name."""
    ours = dict(zip(file_stems(names), names, strict=True))
    found = {}
    for stem in stems:
        alike = [name for name in names if name.replace("/", "-") == stem]  # as other tools write it
        found[stem] = ours.get(stem) or (stem if stem in names else alike[0] if len(alike) == 1 else _decoded(stem))
    return found


def row_name(name: str) -> str:
    r"""A name, encoded as the first words of a row of text.

    >>> row_name("traffic  light"), row_name("two\nlines"), row_name(" edge")
    ('traffic  light', 'two%0Alines', '%20edge')
    """
    body = name.strip()
    start = len(name) - len(name.lstrip()) if body else len(name)
    end = start + len(body)

    def written(also: str) -> str:
        edges = ("".join(map(_code, name[:start])), "".join(map(_code, name[end:])))
        return edges[0] + _encoded(body, lambda letter: _breaks_a_row(letter) or letter in also) + edges[1]

    plain = written("")
    # A percent sign is encoded if it would be taken for the start of a code.
    return plain if plain == name and name_of_row(plain) == name else written("%")


def name_of_row(text: str) -> str:
    r"""The name that `row_name` encoded; any other text is unchanged.

    >>> name_of_row("two%0Alines") == "two\nlines", name_of_row("100%25 wool")
    (True, '100%25 wool')
    """
    name = _decoded(text)
    needed = name != name.strip() or any(map(_breaks_a_row, name)) or ("%" in name and _decoded(name) != name)
    return name if needed and name != text else text


def _encoded(name: str, wanted: Callable[[str], bool]) -> str:
    return "".join(_code(letter) if wanted(letter) else letter for letter in name)


def _code(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode(errors="surrogatepass"))


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="surrogatepass")
    except UnicodeDecodeError:
        return text


def _breaks_a_row(letter: str) -> bool:
    """Whether a character ends a row or is invalid in a text file."""
    return letter in _LINE_ENDS or unicodedata.category(letter) in ("Cc", "Cs")


def _alike(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()
