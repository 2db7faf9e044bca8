"""Nearest items: exact on the device, and the ScaNN index that is served."""
