"""One scheduling rule a file. A rule takes a TIR schedule and a target, and returns the schedule's name or None."""
