"""Engines that people know beside ours, in one run: line-ups of ``conf/peers``, measured by
``harness.interleave``, in one table and one chart."""
