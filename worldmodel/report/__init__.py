"""Pictures, videos and the HTML page that shows a run."""
