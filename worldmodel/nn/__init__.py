"""Small layers that every model shares: patches, positions, attention, blocks."""
