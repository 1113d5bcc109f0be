"""A site whose tests send to groups, run by Django's test runner in a process of its own."""
