"""How a payload gets from one process of the service to the next."""
