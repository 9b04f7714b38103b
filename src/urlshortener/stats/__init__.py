"""How often, when and by whom: where counts are kept."""
