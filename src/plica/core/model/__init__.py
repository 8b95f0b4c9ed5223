"""The model as attacks see it: counted, padded, fitted to any number of images, with its noise and its randomness."""
