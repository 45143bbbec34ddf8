"""Exit shift: where images leave before and after an attack, and what that costs."""

import streamlit as st

from ui import cache, shift
from ui.captions import made_words
from ui.controls import glyph_label, setting_controls
from ui.links import copy_link
from ui.running import pair_experiment
from ui.shell import kind_errors, page_setup
from ui.words import meaning

page_setup("Exit shift")
st.title("Exit shift", help=meaning("exit shift"))
st.markdown("Where do images leave once they are attacked, and what does that cost?")

with kind_errors():
    setting = setting_controls()
    if setting.card.num_exits == 1:
        shift.nothing_to_shift(setting.card)
        st.stop()
    experiment = pair_experiment(setting)
    if experiment is None:
        st.stop()
    card = experiment.cards[experiment.spec.model]
    if card.num_exits == 1:
        st.info(f"The result at hand is of {glyph_label(card)}. Run the attack to see the model chosen now.")
        st.stop()

    own = cache.own_decisions(experiment, setting.policy)
    efficiency = cache.efficiency(experiment.spec, setting.policy, experiment)
    where = made_words(experiment, setting.policy)
    shift.headline(experiment, setting, own, efficiency)
    copy_link(experiment.spec)
    st.header("From exit to exit", help=meaning("computed exit"))
    shift.who_moves_where(experiment, own, where)
    st.header("What it costs", help=meaning("cost fraction", "saving", "efficacy"))
    shift.what_it_costs(experiment, own, efficiency, where)
    st.header("While the examples are made", help=meaning("example", "made at"))
    shift.while_generating(experiment)
