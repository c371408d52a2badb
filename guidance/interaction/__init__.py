"""InteractDiffusion in plain torch: tokens of who does what to whom, and the layers through which a U-Net sees them."""
