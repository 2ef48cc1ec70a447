"""The jobs that a user runs, one file each: `worldmodel <job>`, or `python -m experiments.<job>`."""
