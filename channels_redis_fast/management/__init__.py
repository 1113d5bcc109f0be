"""What this package adds to ``manage.py``."""
