"""What is at rest, and how it is read: timelines, catalogue, windows, batches.

contracts.py   what an event, a batch and a positive are
timelines.py   the prepared folder: each user's events, in shards
catalog.py     its items: vectors, ids, titles, topics
windows.py     the windows that train, and histories up to a moment
shuffle.py     the order of an epoch, as a function of seed and step
ragged.py      arrays of rows of unlike length
"""
