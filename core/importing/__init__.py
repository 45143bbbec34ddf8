"""Models from elsewhere: the card file, the weights file, and the import itself."""
