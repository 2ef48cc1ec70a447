"""Other people's weights: official V-JEPA files and Hugging Face's ``VJEPA2Model``."""
