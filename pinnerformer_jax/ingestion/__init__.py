"""From an event log (Parquet, CSV or TFDS) to a prepared folder.

engine.py            the engine's own columns, and texts that it takes and gives
log_reader.py        the log as a table, each row with its file and number
csv_reader.py        a CSV file as Parquet, broken lines marked
log_columns.py       the columns as the files have them, and what a setting makes of them
kinds.py             ids, times and durations by their types
log_profile.py       what the columns hold, by a sample
column_names.py      names that columns and actions have in public logs
time_format.py       how a log writes its times
draft.py             a config that is being written: choices with their reasons
draft_columns.py     who, what and when
draft_actions.py     actions and positives
draft_items.py       the item table
draft_config.py      all of these, tried as ingest would
config_text.py       the draft as a Python file
tfds_in.py           a TFDS data set as such a log
tfds_prepare.py      TFDS without TensorFlow
event_mapping.py     rows of the log as events, by the config's columns and rules
rejects.py           rows that cannot be used
split.py             the time of the split
timeline_writer.py   users, their roles, and their events in order
item_reader.py       the item table: ids, titles, topics, texts, vectors
catalog_writer.py    the items of both, numbered and described
item_vectors.py      vectors for items that have none
ingest.py            all steps, in order
part_job.py          the same in parts, for many processes or machines: stages, and where each part writes
part_items.py        what a part of the stages of the item table does
part_stages.py       what a part of the other stages does
parts.py             a part, run
part_engines.py      who runs the parts: processes, Ray
tfds_out.py          a prepared folder as a TFDS data set
synthetic_world.py   items and users of a synthetic world
synthetic.py         its events, and the description of the generating process
"""
