"""Attack lab: pick images, attack them live, see which exit gave way and who else is fooled."""

import streamlit as st

from ui import cache, checks, close_up, ladder, picking, result, running, uploading
from ui.attack_controls import attack_controls
from ui.controls import setting_controls
from ui.links import copy_link
from ui.shell import kind_errors, page_setup

page_setup("Attack lab")
st.title("Attack lab")

with kind_errors():
    setting = setting_controls()
    whole = cache.image_set(setting.set_name)
    st.header("1 · Pick images")
    own = picking.wants_own_pictures()
    images = uploading.own_pictures(setting) if own else picking.picked_images(setting, whole)
    if images is None:
        st.stop()

    st.header("2 · Attack them")
    attack, made_at = attack_controls(setting.card, whole.class_names)
    spec = running.spec_of(setting, images, attack, made_at)
    running.run_button(spec, setting)
    running.history()

    st.header("3 · What came of it")
    experiment = running.shown_experiment()
    if experiment is None:
        st.info("The result appears here as soon as the attack is done.")
    else:
        own = result.headline(experiment, setting)
        copy_link(experiment.spec)
        noted = st.container()
        result.population(experiment, setting, own)
        smallest = ladder.ladder(experiment)
        close_up.close_up(experiment, setting, own, smallest)
        result.take_away(experiment, setting)
        with noted:  # at last, as its attacks would slow down the drawing of all that stands below
            checks.notes(experiment, setting.policy)
