"""A system on one machine: real servers from wheels, and a supervisor that keeps processes running."""
