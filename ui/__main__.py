"""Starts the dashboard, and imports what every page needs while the browser is still on its way."""

import sys
import threading
from importlib import import_module

from streamlit.web import cli

# What takes seconds to import. Nothing of Streamlit's is among it: a cache must not be made before the server is.
SLOW_IMPORTS = ("torch", "pandas", "plotly.graph_objects", "core.experiment", "core.figures")


def _import_ahead() -> None:
    for name in SLOW_IMPORTS:
        import_module(name)


def main() -> None:
    """``streamlit run app.py`` with the arguments given."""
    threading.Thread(target=_import_ahead, name="imports", daemon=True).start()
    sys.argv = ["streamlit", "run", "app.py", *sys.argv[1:]]
    cli.main()


if __name__ == "__main__":
    main()
