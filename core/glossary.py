"""The words of the product and what they mean, read from docs/glossary.md: the one place where they are explained."""

import re
from functools import cache
from pathlib import Path

from core.errors import ExitLensError

FILE = Path(__file__).parents[1] / "docs" / "glossary.md"


@cache
def glossary() -> dict[str, str]:
    """What each word means, in Markdown, in the order of the file.

    A row of the table explains every word that is bold in it: those that it is about, and those that its meaning
    introduces.

    Raises:
        ExitLensError: If the file is missing or holds no table.
    """
    try:
        text = FILE.read_text(encoding="utf-8")
    except OSError as error:
        raise ExitLensError(f"{FILE} cannot be read ({error.strerror}). Restore it from the repository.") from error
    words: dict[str, str] = {}
    for row in re.findall(r"^\| (\*\*.+?) \| (.+) \|$", text, flags=re.MULTILINE):
        about, meaning = row
        for word in re.findall(r"\*\*(.+?)\*\*", f"{about} {meaning}"):
            words.setdefault(word, meaning.replace("**", ""))
    if not words:
        raise ExitLensError(f"{FILE} holds no table of words. Restore it from the repository.")
    return words


def words_in(text: str) -> list[str]:
    """The words of the glossary that a text uses, in the singular or plural, the longest first where they overlap."""
    found: dict[int, str] = {}
    taken: set[int] = set()
    lowered = text.lower().replace("_", " ")
    for word in sorted(glossary(), key=len, reverse=True):
        for match in re.finditer(rf"\b{re.escape(word.lower().removesuffix('s'))}s?\b", lowered):
            place = set(range(*match.span()))
            if not place & taken:
                taken |= place
                found[match.start()] = word
    return list(dict.fromkeys(found[start] for start in sorted(found)))
