"""Training from a recipe file to a finished model with its card."""
