"""Histories of groups: what is recorded, what those who come back get, and when it is called complete."""
