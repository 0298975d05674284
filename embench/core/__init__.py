"""How the process behaves: errors, files, locks, signals, sandbox, paths, seeding, environment.

Nothing here knows of images, models or results.
"""
