"""What the serving process tells Python's garbage collector once it has started."""
