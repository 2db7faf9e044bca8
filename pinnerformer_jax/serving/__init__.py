"""The daily job: new events in, embeddings out; published as one unit, looked up and recommended from.

event_store.py, event_file.py     the newest events of each user
snapshot.py                       vectors of users and items; `UserVectors`, where a user's is looked up
state.py                          states and the pointer to the one that is served
daily.py                          the job
store.py                          the feature store: interface, values, publishing a state to it
lmdb_store.py, redis_store.py     in files; on a server
stores.py                         one of them, by its URL
recommender.py                    from a user to items
embed_events.py                   vectors from a table of events, without a state
"""
