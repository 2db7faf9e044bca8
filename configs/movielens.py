"""MovieLens-1M from TensorFlow Datasets: 1 million ratings of some 3,900 films by 6,040 people.

    python -m pinnerformer_jax.ingest --config configs/movielens.py
    python train.py --config configs/movielens.py --workdir runs/movielens
    python evaluate.py --workdir runs/movielens

The first command downloads the data once, into TFDS_DATA_DIR (default ~/tensorflow_datasets). TensorFlow is
not needed. The download was not tried here; the same ratings from a file, with these columns, were.

A rating of 4 or 5 is a positive, and every rating is an event. Most people rate all their films in their
first hours, so at any one t few have both a past and weeks to come. t here lies in the autumn of 2000,
when many were active. It is a guess, not a tuned choice. The sizes follow from the log. Other data sets are
mapped in the same way; tfds:movielens/25m-ratings has these columns.

Expected Recall@10 of 103 users, full catalogue: 0.080 +- 0.036 served, with a prior of popularity and without
what the user had; EASE 0.067, popularity 0.059, so that they cannot be told apart. One seed.
"""

from pinnerformer_jax.config import (
    ColumnsConfig,
    Config,
    DataConfig,
    PositiveRule,
)

config = Config(
    name="movielens",
    data=DataConfig(
        events=("tfds:movielens/1m-ratings",),
        prepared="data/movielens/prepared",
        columns=ColumnsConfig(
            user="user_id",
            item="movie_id",
            time="timestamp",
            action="CASE WHEN user_rating >= 4 THEN 'like' ELSE 'rate' END",
            title="movie_title",
            topic="array_to_string(movie_genres, ' ')",  # a list; the combination is the topic
        ),
        positives=(PositiveRule(action="like"),),
        split_time="2000-12-03",
        evaluation_days=28.0,
    ),
    sizes_by_log=True,
)
