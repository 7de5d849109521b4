"""How connections are served: a thread for each, or one thread for all, on our own loop or a library's."""
