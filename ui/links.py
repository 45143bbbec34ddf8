"""The link to a page with its result: the address itself, for the controls are bound to it."""

import streamlit as st
from streamlit.components import v2

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


def copy_link(images: str = "") -> None:
    """A button that copies the address of this page with its result.

    Args:
        images: What the result is of; uploads are in no link, and this says so.
    """
    if ":upload-" in images:
        st.info(
            "Your own pictures are in no link: who opens the address of this page sees the image set instead. The lab "
            "has their tables and perturbations to take with you."
        )
    else:
        _button(key="copy-link")
