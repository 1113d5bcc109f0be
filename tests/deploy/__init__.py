"""The end of a process: drained layers, servers that are told to end, workers that lose no job."""
