"""Transfer: which model's adversarial examples fool which model, and which exit's fool which exit."""

import streamlit as st

from ui import exit_transfer, transfer
from ui.controls import setting_controls
from ui.running import run_button, shown_experiment
from ui.shell import kind_errors, page_setup
from ui.state import TRANSFER_RUN
from ui.words import meaning

page_setup("Transfer")
st.title("Transfer", help=meaning("source"))
st.markdown("Does what fools one model fool another one, too? And what fools one exit: does it fool the next?")

with kind_errors():
    setting = setting_controls()
    asked = transfer.controls(setting)
    run_button(asked.spec, setting, TRANSFER_RUN)
    st.header("From model to model")
    experiment = shown_experiment(TRANSFER_RUN)
    if experiment is None:
        st.info("The matrix appears here as soon as the attacks are done.")
    else:
        denominator = transfer.denominator_control(experiment.spec.attack.success_rule)
        matrix = transfer.matrix(experiment, setting, asked.targets, denominator)
        st.header("Between static and early-exit models", help=meaning("static model", "early-exit model"))
        transfer.directions(experiment, setting, matrix, denominator)
    st.header("From exit to exit", help=meaning("exit"))
    exit_transfer.exit_to_exit(asked, setting)
