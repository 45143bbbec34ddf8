"""Studies: what was measured on many models at once, what is claimed of early exits, and whether it holds."""

import streamlit as st

from ui import studies, study_cache
from ui.links import copy_link
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Studies")
st.title("Studies", help=meaning("study", "claim"))

with kind_errors():
    places, problems = study_cache.studies()
    for problem in problems:
        st.caption(problem)
    if not places:
        st.info(
            "There is no study here yet: `python -m core study run transfer --out output/transfer --num-images 1000` "
            "runs one."
        )
    else:
        opened = studies.controls(places)
        studies.facts(opened)
        studies.claims_panel(opened)
        st.header("What was found")
        studies.charts_panel(opened)
        studies.compare_panel(opened, places)
        studies.report_panel(opened)
        copy_link()
