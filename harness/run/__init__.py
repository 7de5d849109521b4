"""One run: a parent that launches measured processes one after the other and collects them."""
