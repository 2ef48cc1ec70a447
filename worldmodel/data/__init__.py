"""Data in: the episode store, windows over it, clips, cached latents."""
