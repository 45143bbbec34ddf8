"""Speed measured, written as JSON with the facts of the machine it was measured on."""
