"""How the work of several requests is put together before the model sees it."""
