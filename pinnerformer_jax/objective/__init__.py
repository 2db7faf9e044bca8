"""Which (user embedding, item) pairs are trained, against which negatives, with which loss."""
