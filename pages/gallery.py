"""Gallery: browse kept adversarial examples, and open one with everything about it."""

import streamlit as st

from ui import example, filling, gallery, kept_cache
from ui.shell import kind_errors, page_setup

page_setup("Gallery")
st.title("Gallery")

with kind_errors():
    everything = kept_cache.gallery()
    if everything.rows.empty:
        filling.nothing_kept(everything)
        st.stop()
    shown = gallery.chosen_examples(everything)
    address = st.query_params.get("example")
    if address:
        example.way_back(shown, address)
        example.example_view(example.find_example(everything, address), everything)
    else:
        gallery.headline(shown, everything)
        gallery.examples_view(shown, everything)
