"""Studies: many attacks on many models, in cells that are done once, wherever they run."""
