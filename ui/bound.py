"""Controls whose value stands in the address, and what a link asks of them that is not to be had.

Streamlit drops what it cannot use from the address without a word and leaves the control at its default; so a link to
a model that is not here would show another one, as if that had been asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import streamlit as st

MAX_LETTERS = 40


def choose(
    widget: Callable[..., Any],
    label: str,
    options: Sequence[Any],
    *args: Any,
    key: str,
    format_func: Callable[[Any], str] = str,
    said_more: bool = False,
    **about: Any,
) -> Any:
    """One or several of some options.

    Args:
        widget: Such as ``st.selectbox``, or that of a column.
        label: Of the widget.
        options: What it offers; no two share their words.
        args: What else the widget takes by place.
        key: Of the widget, under which it stands in the address.
        format_func: An option in words, which nothing but the options themselves may move: they stand in the address.
        said_more: Whether links of old name one option by its words and more.
        about: What else the widget takes by name.
    """
    words = [format_func(option) for option in options]
    unknown = [text for text in _asked(key) if text not in words]
    if said_more:
        for word in words:
            if any(text.startswith(f"{word} ") for text in unknown):
                st.query_params[key] = word  # taken up as the control is first drawn, so in another pass
                st.rerun()
    _note(key, label, unknown)
    return widget(label, options, *args, key=key, format_func=format_func, **_kept(about))


def number(
    widget: Callable[..., Any], label: str, low: float, high: float, start: float, *args: Any, key: str, **about: Any
) -> Any:
    """A number between two others; arguments as in ``choose``."""
    _note(key, label, (text for text in _asked(key) if not _is_between(text, low, high)))
    return widget(label, low, high, start, *args, key=key, **_kept(about))


def switch(widget: Callable[..., Any], label: str, *, key: str, **about: Any) -> bool:
    """A checkbox or a toggle; arguments as in ``choose``."""
    _note(key, label, (text for text in _asked(key) if text.lower() not in ("true", "false")))
    return bool(widget(label, key=key, **_kept(about)))


def _kept(about: dict[str, Any]) -> dict[str, Any]:
    return {"bind": "query-params", "persist_state": "session", **about}


def _is_between(text: str, low: float, high: float) -> bool:
    try:
        return low <= float(text) <= high
    except ValueError:
        return False


def _asked(key: str) -> list[str]:
    """What the link asked of a control when its page was opened; looked at once, as the control is first drawn."""
    asked: list[str] = st.session_state.get("link", {}).pop(key, [])
    return asked


def _note(key: str, label: str, texts: Iterable[str]) -> None:
    for text in texts:
        short = text.replace("`", "'")[:MAX_LETTERS] + "…" * (len(text) > MAX_LETTERS)
        # What stands there instead is known once the control is drawn.
        st.session_state["refused"][key] = [f"{label} `{short or ' '}`", ""]


def forget_refused(page: str) -> None:
    """Leaves behind what links asked of another page, and notes what this one's asks; before any control is drawn."""
    if st.session_state["opened_page"] != page:
        st.session_state["opened_page"] = page
        st.session_state["refused"].clear()
        st.session_state["link"] = {key: st.query_params.get_all(key) for key in st.query_params}


def whole_page_if_refused() -> None:
    """For bound controls in a fragment: what is said of a link stands outside it, and is to go once somebody chose."""
    if st.session_state["refused"]:
        st.rerun()


def refused_words() -> str:
    """What links asked for in vain and nobody has chosen otherwise since; once all controls are drawn."""
    refused = st.session_state["refused"]
    for key, noted in list(refused.items()):
        stands_at = repr(st.session_state.get(key))
        noted[1] = noted[1] or stands_at
        if noted[1] != stands_at:
            del refused[key]
    asked = "; ".join(words for words, _ in refused.values())
    return f"The link asks for what is not to be had here: {asked}. The controls say what is shown instead." * bool(
        asked
    )
