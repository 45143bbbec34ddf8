"""Confidence: how sure every exit is, of one image and of many, and whether that can be believed."""

from functools import partial

import streamlit as st

from ui import cache, confidence, model_trust
from ui.captions import made_words
from ui.controls import setting_controls
from ui.links import copy_link
from ui.running import pair_experiment
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Confidence")
st.title("Confidence", help=meaning("confidence"))
st.markdown("How sure is every exit, and is it still to be believed once images are attacked?")

with kind_errors():
    setting = setting_controls()
    experiment = pair_experiment(setting)
    if experiment is None:
        st.stop()
    own = cache.own_decisions(experiment, setting.policy)
    confidence.headline(experiment, setting, own)
    copy_link(experiment.spec)
    st.header("One image, exit by exit")
    confidence.one_image(experiment, setting, own)
    st.header("All images")
    confidence.population(experiment, setting)
    calibration, reliability = cache.attacked_calibration(experiment.spec, experiment)
    model_trust.calibration_panel(
        None, calibration, reliability, made_words(experiment), partial(confidence.bin_of_images, experiment)
    )
