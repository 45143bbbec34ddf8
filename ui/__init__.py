"""What pages are made of: shell, state, caches, controls, panels and background jobs."""

import core  # noqa: F401  (sets how idle threads wait, which must happen before any module here imports torch)
