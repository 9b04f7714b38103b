"""What a link is, where links are kept, and what is remembered of them."""
