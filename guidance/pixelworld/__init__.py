"""PixelWorld: the embedded text-to-image model and its world of 32x32 pixel art."""
