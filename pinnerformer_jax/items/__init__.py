"""Item vectors for those who have none: from a prepared log and what is known of the items.

engagement.py     events of the training users up to t; pairs of items engaged with one after the other
graph.py          the bipartite graph of items and users
walks.py          random walks on it: each item's most visited neighbours
pinsage.py        the model: two graph convolutions
margin.py         the loss it was published with, and hard negatives
fit.py            its training, and the vectors of a whole catalogue
trained.py        what a training leaves, for items that come later
content.py        what is known of the items, as numbers
methods.py        the ways to make vectors, PinSage among them
item_to_item.py   how well vectors find what is engaged with next
publish.py        a copy of a prepared folder with these vectors

Nothing after t reaches a vector. Reads data/, borrows the loss of objective/, item-kNN and intervals of
evaluation/. studies/compare_items.py compares the ways to make vectors, by a PinnerFormer on each.
"""
