"""The whole system in one process, and the same again from a number: a seed decides who runs, what fails, and when.

`loop` chooses who runs next, `nature` gives time and chance, `storage` and `broker` are what may fail, `world` has the
processes, `stories` what people do, `invariants` what must hold, `simulate` runs stories and reports.
"""
