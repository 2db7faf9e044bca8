"""The prepared data and their readers: timelines, catalogue, windows, batches.

contracts.py   events and batches: types, shapes, units
positives.py   what a positive is, as a table and as SQL
timelines.py   the prepared folder: each user's events, in shards
catalog.py     the items: vectors, ids, titles, topics
windows.py     the windows that train, and histories up to a moment
shuffle.py     the order of an epoch, as a function of seed and step
ragged.py      arrays of rows of different lengths
"""
