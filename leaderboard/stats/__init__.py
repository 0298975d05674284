"""Statistics as pure functions of arrays or of a table with columns model, task, seed, score.

Nothing here reads files or writes HTML, so that a notebook can use it.
"""
