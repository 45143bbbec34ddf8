"""Placement: choose after which blocks exits stand, and see accuracy, cost and robustness move."""

import streamlit as st

from ui import placement, study_cache
from ui.links import copy_link
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Placement")
st.title("Placement", help=meaning("placement"))
st.markdown("Where should exits stand? Choose blocks: no network runs, for every exit of every block was stored.")

with kind_errors():
    places = placement.places_with_placements(study_cache.studies()[0])
    if not places:
        st.info(
            "No study of placements is here yet: `python -m core study run placement --out output/placement` runs one. "
            "It needs a model with an exit after every block."
        )
    else:
        placing = placement.controls(places)
        chosen = placement.headline(placing)
        placement.placements_panel(placing, chosen)
        placement.exits_panel(placing)
        copy_link()
