"""What a session sees while models are replaced and others use the same server."""

import pytest
import streamlit as st
from every_page import fresh_caches, metrics, settled, warm
from test_models_page import EARLY, Zoo, zoo

__all__ = ["fresh_caches", "zoo"]
pytestmark = pytest.mark.usefixtures("zoo")
LINK = {"images": "0-11", "attack": "FGSM", "epsilon": "2/255"}


def test_a_model_trained_again_is_attacked_again(zoo: Zoo) -> None:
    # Mutants: results, ladders and tables kept by the name of a model alone, so that the old weights' numbers pass for
    # those of the new ones; an old session that goes on showing them.
    old = warm("attack_lab", **LINK)
    before = metrics(old)
    old.button(key="climb").click().run()
    assert not [button for button in settled(old).button if button.key == "climb"]
    zoo.remove(EARLY)
    zoo.add(EARLY, 4, seed=8)
    assert not old.run().metric and any("no longer kept" in caption.value for caption in old.caption)
    new = warm("attack_lab", **LINK)
    assert [button for button in new.button if button.key == "climb"]
    st.cache_data.clear()
    st.cache_resource.clear()
    assert metrics(new) == metrics(warm("attack_lab", **LINK)) != before
