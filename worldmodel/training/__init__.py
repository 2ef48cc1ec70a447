"""The training loop and what it needs: schedules, EMA, checkpoints, monitors, run directories."""
