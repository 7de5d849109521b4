"""Parts measured alone, outside of any run of the harness: ``core`` is what all of them do alike."""
