"""The torch core of Interplay: attention maps in, a better latent out."""
