"""How an event log comes to rest: Parquet, CSV or TFDS in, a prepared folder out.

log_reader.py        the log as a table, each row with its file and number
tfds_in.py           a TFDS data set as such a log
tfds_prepare.py      TFDS without TensorFlow
event_mapping.py     what a row must be, by the config's columns and rules
rejects.py           rows that are set aside
timeline_writer.py   who is kept, in which role and order
catalog_writer.py    what is known of the items
item_vectors.py      vectors for items that came without
ingest.py            all of it, in order
tfds_out.py          a prepared folder as a TFDS data set
synthetic.py         a made-up world, and its generating process
"""
