"""Attribution: what each exit looked at, before and after the attack, and how far that can be believed."""

import streamlit as st

from ui import agreement, attribution, belief, cache, map_controls
from ui.controls import setting_controls
from ui.links import copy_link
from ui.running import pair_experiment
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Attribution")
st.title("Attribution", help=meaning("attribution"))
st.markdown("What did each exit look at, and does it still look there once the image is attacked?")

with kind_errors():
    setting = setting_controls()
    experiment = pair_experiment(setting)
    if experiment is None:
        st.stop()
    own = cache.own_decisions(experiment, setting.policy)
    copy_link(experiment.spec)
    asked = map_controls.controls(experiment.image_set.class_names)
    agreement.open_clicked(experiment)
    st.header("One image, exit by exit", anchor="one-image")
    looked = attribution.one_image(asked, experiment, setting, own)
    method = attribution.method_in_question(looked)
    if method is None:
        st.stop()
    st.header("Do its exits look at the same pixels?", help=meaning("agreement"))
    attribution.between_exits(method, looked, experiment)
    st.header("Can it be believed?", help=meaning("infidelity", "sensitivity", "redrawn weights"))
    belief.belief(method, looked, experiment)
    st.header("All images", help=meaning("agreement", "exit shift"))
    spec = next(spec for spec in asked.specs if spec.method == method)
    agreement.population(spec, experiment, setting)
