"""What the two layers have in common: each test here is one of both."""
