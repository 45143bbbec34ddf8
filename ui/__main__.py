"""Starts the dashboard, with all that every page needs imported before the first one is asked for."""

import gc
import sys
from importlib import import_module

from streamlit.web import cli

# What takes seconds to import. Nothing of Streamlit's is among it: a cache must not be made before the server is.
SLOW_IMPORTS = ("torch", "pandas", "plotly.graph_objects", "core.experiment", "core.figures")


def main() -> None:
    """``streamlit run app.py`` with the arguments given."""
    # Before the server, not beside it: two threads that import one package, each beginning with another module of it,
    # wait for each other; Python then lets one see a half-made module, and its page ends with an ImportError.
    for name in SLOW_IMPORTS:
        import_module(name)
    gc.freeze()  # they stay anyway, and a full collection that walks them holds up a page for 0.1 s, now and then
    sys.argv = ["streamlit", "run", "app.py", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
