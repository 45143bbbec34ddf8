"""ExitLens without a screen: images, models, exits, attacks, tables and figures.

Nothing below this package imports Streamlit; the dashboard and the command line both stand on it.
"""

import os

# Idle OpenMP threads that spin make small work 50-200 times slower as soon as two processes share the
# cores; this has to be set before torch is imported anywhere.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
