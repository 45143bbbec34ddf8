"""The link to a page with its result: the address itself, for the controls are bound to it."""

import streamlit as st
from streamlit.components import v2

from core.experiment import ExperimentSpec
from ui.state import PAIR_RUN, of_uploads, run_state

_HTML = '<button type="button">Copy link</button><span role="status"></span>'
_CSS = """
button { font: inherit; font-size: 0.875rem; color: var(--st-text-color); background: var(--st-background-color);
  cursor: pointer; border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius);
  padding: 0.25rem 0.75rem;
  min-height: 2.5rem; }
button:hover, button:focus-visible { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
span { margin-left: 0.75rem; font-size: 0.875rem; color: var(--st-text-color); opacity: 0.7; }
"""
# Where a page is not from this machine and not encrypted, browsers offer no clipboard but the old one.
_JS = """
export default function (component) {
  const root = component.parentElement;
  const button = root.querySelector("button"), status = root.querySelector("span");
  const byHand = (text) => {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.appendChild(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  };
  button.onclick = async () => {
    const link = window.location.href;
    let done = false;
    try { await navigator.clipboard.writeText(link); done = true; } catch { done = byHand(link); }
    status.textContent = done ? "Copied: it opens this page with its result." : link;
  };
}
"""
_button = v2.component("exitlens_copy_link", html=_HTML, css=_CSS, js=_JS)


def copy_link(shown: ExperimentSpec | None = None, run: str = PAIR_RUN) -> None:
    """A button that copies the address of this page with its result.

    Args:
        shown: The experiment on screen, where the page runs some. Uploads are in no link, and a result that is older
            than the controls is not in this one; this says so.
        run: Whose controls count.
    """
    if shown and of_uploads(shown.images):
        st.info(
            "Your own pictures are in no link: who opens the address of this page sees the image set instead. The lab "
            "has their tables and perturbations to take with you."
        )
    elif shown and run_state(run).controls != shown:
        st.caption("The link opens what the controls say. Run the attack, or put the controls back, to copy its link.")
    else:
        _button(key="copy-link")
