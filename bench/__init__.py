"""Benchmarks: the order path of this system beside what somebody would pick instead, in one run, on one machine."""
