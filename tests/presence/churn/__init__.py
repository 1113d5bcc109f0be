"""Users who come and go, processes and servers that fail, and a checker that knows who has to be there."""
