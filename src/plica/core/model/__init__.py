"""The model as attacks call it: calls are counted and padded, any number of images is taken, and the effects of
rounding and of random outputs are measured."""
