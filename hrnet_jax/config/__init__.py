"""Configs: every field, their checks, the recipes, and the things that a config describes."""
