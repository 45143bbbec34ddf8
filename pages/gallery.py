"""Gallery: browse kept adversarial examples, and open one with everything about it."""

import streamlit as st

from ui import example, filling, gallery, kept_cache
from ui.links import copy_link
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Gallery")
st.title("Gallery", help=meaning("example", "kept run"))

with kind_errors():
    everything = kept_cache.gallery()
    if everything.rows.empty:
        filling.nothing_kept(everything)
        st.stop()
    shown = gallery.chosen_examples(everything)
    address = st.query_params.get("example")
    if address:
        example.way_back(shown, address)
        found = example.find_example(everything, address)
        copy_link()
        example.example_view(found, everything)
    else:
        gallery.headline(shown, everything)
        copy_link()
        gallery.examples_view(shown, everything)
