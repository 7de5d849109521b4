"""Decoders of family ``attention``: words from states, one step a token.

``network`` is Whisper's decoder over caches that never move, ``choice`` what a step may choose, ``search``
both put together as the state of a batch of windows. ``cpu_synced`` asks the host after each step,
``step_graph`` replays a captured one.
"""
