"""Trains the embedded model: outside what is measured, needed only to make its weights anew."""
