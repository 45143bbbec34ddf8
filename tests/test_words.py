"""The glossary explains what stands on screen: one source, and help beside every label that uses its words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from every_page import ROOT, fresh_caches, opened
from test_models_page import Zoo, zoo

from core.glossary import FILE, glossary, words_in
from ui.words import column_help, meaning

__all__ = ["fresh_caches", "zoo"]


def test_every_bold_word_of_the_glossary_is_explained_by_its_row() -> None:
    # Mutants: only the first word of a row; words that a meaning introduces left out; another row's meaning.
    rows = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("| **")]
    bold = [word for row in rows for word in re.findall(r"\*\*(.+?)\*\*", row)]
    assert len(rows) > 30 and set(glossary()) == set(bold) and len(bold) == len(set(bold))
    assert glossary()["threshold"] == "The confidence that is enough to leave."
    assert glossary()["computed exit"] == glossary()["answered exit"]
    assert all(meaning.strip(" |") and "**" not in meaning for meaning in glossary().values())


def test_words_in_a_label_are_the_longest_ones_in_any_number() -> None:
    # Mutants: "exit" found inside "exit shift"; plurals and columns of tables missed; "exited" taken for "exit".
    assert words_in("Exit shifts of static models") == ["exit shift", "static model"]
    assert words_in("adversarial_computed_exit") == ["adversarial", "computed exit"]
    assert words_in("what exited, was cleansed and sourced") == []


def test_help_says_what_the_glossary_says() -> None:
    # Mutants: a word without its meaning; what else there is to say left out; columns without help.
    words = meaning("threshold", "fallback", more="And more.")
    assert glossary()["threshold"] in words and glossary()["fallback"] in words and words.endswith("And more.")
    help_of_columns = column_help(("image_id", "exit_shift"))
    assert list(help_of_columns) == ["exit_shift"]
    assert glossary()["exit shift"] in help_of_columns["exit_shift"]["help"]


def calls_of_meaning() -> Iterator[tuple[Path, str]]:
    for path in [ROOT / "app.py", *(ROOT / "pages").glob("*.py"), *(ROOT / "ui").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("meaning", "help_of"):
                yield from (
                    (path, argument.value)
                    for argument in node.args
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                )


def test_every_word_that_the_screen_explains_exists() -> None:
    # Mutant: a word renamed in the glossary alone, whose page then fails.
    used = list(calls_of_meaning())
    assert len(used) > 30
    assert [(path.name, word) for path, word in used if word not in glossary()] == []


def test_all_words_open_from_the_sidebar(zoo: Zoo) -> None:
    # Mutant: a button that opens nothing.
    test = opened("models")
    assert not any("Expected calibration error" in text.value for text in test.markdown)
    test.button(key="words").click().run()
    assert not test.exception
    listed = next(text.value for text in test.markdown if "Expected calibration error" in text.value)
    assert all(meaning in listed for meaning in glossary().values())
