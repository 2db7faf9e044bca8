"""The daily job: new events in, embeddings out; published as one unit, looked up and recommended from."""
