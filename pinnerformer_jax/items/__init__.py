"""Item vectors built from a prepared log and the content of the items, for logs without item vectors.

engagement.py     events of the training users up to t; pairs of items engaged with one after the other
graph.py          the bipartite graph of items and users
walks.py          random walks on it: each item's most visited neighbours
pinsage.py        the model: two graph convolutions
margin.py         the max-margin loss of the paper, and hard negatives
fit.py            training, and vectors of a whole catalogue
trained.py        the trained model as a file, for items that come later
content.py        content of the items as features
methods.py        the ways to make vectors, PinSage among them
item_to_item.py   evaluation: do vectors find the item that is engaged with next?
prepared_copy.py  a copy of a prepared folder with these vectors

Nothing after t reaches a vector. Reads data/, borrows the loss of objective/, item-kNN and intervals of
evaluation/. studies/compare_items.py compares the ways to make vectors, by a PinnerFormer on each.
"""
