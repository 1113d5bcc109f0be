"""Tests of histories: what groups were sent, kept for those who were away."""
