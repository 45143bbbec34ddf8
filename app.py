"""Home: a live result from the real models, what is ready, and the ways in."""

import streamlit as st

from ui import home
from ui.controls import setting_controls
from ui.shell import kind_errors, page_setup

page_setup("Home")
st.title("What does an attack do to a network that may answer early?")

with kind_errors():
    setting = setting_controls()
    home.live_result(setting)
    home.what_is_kept()
    home.ways_in()
    home.what_is_ready()
