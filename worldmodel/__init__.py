"""Everything that learns from video, and what shows it: data, models, objectives, training, evaluation, reports."""

__version__ = "0.1.0"
