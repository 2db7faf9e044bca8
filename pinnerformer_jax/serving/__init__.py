"""The daily job: new events in, vectors out; published together, looked up and recommended from.

The job, in the order in which it happens:
  daily.py            the list of steps
  part_engines.py     users embedded in parts by processes or Ray, then these steps
  trained_model.py    the run to embed with
  plan.py             1. what the state is made of: day, state before, log, deleted and requested users
  new_items.py        2. items that came after the training
  events.py           3. the day's events merged into the newest events of each user, by
                         event_store.py, newest_events.py, day_log.py, event_file.py and histories.py
  users.py            4. users embedded, and merged with the vectors before; user_parts.py: in parts
  items.py            5. item vectors and popular items
  index.py            6. ScaNN over the item vectors
  manifest.py         7. what the state says of itself, and its verification
  summary.py          what was done, in lines

What the job writes to:
  state.py            states and the pointer to the served one
  tombstones.py       deleted users
  user_lists.py       lists of users that a person writes
  snapshot.py         tables of user and item vectors
  store.py            feature store: interface, values, publishing the users of a state;
                      lmdb_store.py (files), redis_store.py (a server), stores.py (one of them by its URL)

What reads it:
  recommender.py      items for a user, by ranking.py (the served score) and user_events.py
  embed_events.py     vectors from a table of events, without a state
"""
