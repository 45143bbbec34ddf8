"""Models: what the chosen model gets right and costs, whether it can be believed, and how it was made."""

from functools import partial

import streamlit as st

from ui import cache, model_report, model_trust
from ui.controls import setting_controls
from ui.links import copy_link
from ui.measuring import measured_pair
from ui.shell import kind_errors, page_setup
from ui.wall_clock import wall_clock_panel

page_setup("Models")
st.title("Models")

with kind_errors():
    setting = setting_controls()
    pair = measured_pair(setting)
    if pair is None:
        st.info("The result appears here as soon as the images have been measured.")
    else:
        model_report.headline(pair, setting)
        copy_link()
        where = model_report.where_words(pair, setting)
        tables = cache.model_tables(pair.own.evaluation.spec, setting.policy, pair.own.evaluation)
        model_report.exits_panel(pair, setting, tables["model_exits"], where)
        model_report.curve_panel(pair, setting)
        model_trust.calibration_panel(
            pair.own.card.kind,
            tables["calibration"],
            tables["reliability"],
            where,
            partial(model_trust.bin_of_images, pair, setting),
        )
        left, right = st.columns([2, 3])
        with left:
            model_trust.overthinking_panel(pair, tables["overthinking"], where)
        with right:
            model_trust.confusion_panel(pair, setting, tables["confusion"], where)
        wall_clock_panel(pair, setting)
    model_report.making_panel(setting.card)
