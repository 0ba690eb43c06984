"""Where ini files have looked for the gunicorn worker since aiopyramid 0.1."""
