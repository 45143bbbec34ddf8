"""Help beside the words on screen, from the one place where they are explained: docs/glossary.md."""

from functools import cache
from typing import Any

import streamlit as st

from core.glossary import glossary, words_in


def meaning(*words: str, more: str = "") -> str:
    """The help of a label: what these words of the glossary mean, and what else is to be said."""
    explained = [f"**{word[:1].upper()}{word[1:]}**: {glossary()[word]}" for word in words]
    return "\n\n".join([*explained, more] if more else explained)


@cache
def help_of(name: str) -> str | None:
    """The help of a column: the words of the glossary that its name uses; None where it uses none."""
    words = words_in(name)
    return meaning(*words) if words else None


@cache
def column_help(columns: tuple[str, ...]) -> dict[str, Any]:
    """Settings of a table's columns: help wherever a name uses words of the glossary."""
    return {name: st.column_config.Column(help=words) for name in columns if (words := help_of(name))}


@st.dialog("What the words mean", width="large")
def all_words() -> None:
    """The whole glossary."""
    about: dict[str, list[str]] = {}
    for word, explained in glossary().items():
        about.setdefault(explained, []).append(word)
    st.markdown("\n".join(f"- **{', '.join(words)}**: {explained}" for explained, words in about.items()))
