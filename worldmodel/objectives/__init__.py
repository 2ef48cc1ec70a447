"""Training objectives: what is predicted from what, and what prevents collapse."""
