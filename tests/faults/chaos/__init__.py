"""Random faults under random traffic, from a seed, and a checker that knows neither: `make chaos`.

`plan` makes the events of a round from a seed; `servers` are what they happen to; `traffic` sends and receives
meanwhile and writes into a `record`; `rules` say what a fault may do to messages; `checker` compares the two; `driver`
runs it all.
"""
