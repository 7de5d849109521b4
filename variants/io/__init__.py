"""How connections are served: a thread for each, or one thread with epoll for all."""
