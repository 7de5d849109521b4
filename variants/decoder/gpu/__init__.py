"""What our two GPU decoders share: weights in kernel order, compilation, one call's data."""
