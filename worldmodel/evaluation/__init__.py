"""Measuring trained models on data: representations and open-loop prediction."""
