"""What pages are made of: shell, state, caches, controls, panels and background jobs."""
