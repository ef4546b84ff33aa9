"""Loads as people and engines write them down, and the maps of experts that engines read."""
