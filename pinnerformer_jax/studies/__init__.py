"""Studies that train and compare many models. This stage may import all others but bench; none imports it.

study_table.py     a table of a study: lines, columns, claims
study_tables.py    the paper's tables
paper.py           the paper's numbers
cells.py           one training of a study and the record of its measurements
study.py           trains and measures every line, with several seeds
measure.py         all measurements of one trained model
ranker.py          does the user vector help to predict engagement with impressions?
study_summary.py   means, spreads, and which of the paper's comparisons hold
study_report.py    the page
compare_items.py   ways to make item vectors, by a PinnerFormer on each
replay.py          days of a log through the daily job, incremental against full
"""
