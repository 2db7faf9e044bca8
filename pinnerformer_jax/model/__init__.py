"""The towers: action features, user and item embeddings. Knows no loss and no optimiser."""
