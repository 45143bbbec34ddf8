"""What every page starts with: settings, navigation, and errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from core.errors import ExitLensError
from ui import kept_cache
from ui.state import SESSION

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "Explore": (
        ("app.py", "Home"),
        ("pages/attack_lab.py", "Attack lab"),
        ("pages/gallery.py", "Gallery"),
        ("pages/exit_shift.py", "Exit shift"),
        ("pages/confidence.py", "Confidence"),
    ),
    "Compare": (("pages/transfer.py", "Transfer"), ("pages/models.py", "Models")),
}


def page_setup(title: str) -> None:
    """Page settings, styles, state defaults and navigation; the first call of every page."""
    st.set_page_config(page_title=f"{title} · ExitLens", page_icon=str(ASSETS / "favicon.png"), layout="wide")
    st.html(ASSETS / "style.css")
    st.logo(str(ASSETS / "logo.svg"), size="large")
    for key, default in SESSION.items():
        if key not in st.session_state:
            st.session_state[key] = default()
    with st.sidebar:
        for group, pages in PAGES.items():
            st.caption(group)
            for path, label in pages:
                st.page_link(path, label=label)
    kept_cache.warm_up()


@contextmanager
def kind_errors() -> Iterator[None]:
    """Shows an error that users may see as one sentence, and ends the page there."""
    try:
        yield
    except ExitLensError as error:
        st.error(str(error))
        st.stop()
