"""That a link was followed, on its way to be counted."""
