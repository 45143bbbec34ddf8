"""What every page starts with: settings, navigation, and errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import streamlit as st

from core.errors import ExitLensError
from ui import kept_cache
from ui.bound import forget_refused, refused_words
from ui.state import SESSION, follow_link
from ui.words import all_words

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "Explore": (
        ("app.py", "Home"),
        ("pages/attack_lab.py", "Attack lab"),
        ("pages/gallery.py", "Gallery"),
        ("pages/exit_shift.py", "Exit shift"),
        ("pages/confidence.py", "Confidence"),
    ),
    "Compare": (
        ("pages/transfer.py", "Transfer"),
        ("pages/attribution.py", "Attribution"),
        ("pages/models.py", "Models"),
    ),
    "Evidence": (("pages/studies.py", "Studies"), ("pages/placement.py", "Placement")),
    "Present": (("pages/story.py", "Story"),),
}


def page_setup(title: str, *, sidebar: Literal["auto", "collapsed"] = "auto") -> None:
    """Page settings, styles, state defaults and navigation; the first call of every page."""
    st.set_page_config(
        page_title=f"{title} · ExitLens",
        page_icon=str(ASSETS / "favicon.png"),
        layout="wide",
        initial_sidebar_state=sidebar,
    )
    st.html(ASSETS / "style.css")
    st.logo(str(ASSETS / "logo.svg"), size="large")
    for key, default in SESSION.items():
        if key not in st.session_state:
            st.session_state[key] = default()
    follow_link()
    forget_refused(title)
    with st.sidebar:
        for group, pages in PAGES.items():
            st.caption(group)
            for path, label in pages:
                st.page_link(path, label=label)
        if st.button("What the words mean", key="words", type="tertiary"):
            all_words()
    kept_cache.warm_up()


@contextmanager
def kind_errors() -> Iterator[None]:
    """Shows an error that users may see as one sentence, and ends the page there; says what a link could not have."""
    place = st.empty()
    try:
        yield
    except ExitLensError as error:
        st.error(str(error))
        st.stop()
    finally:
        if words := refused_words():
            place.warning(words)
