"""Configs: fields, checks, recipes, and the builders that turn a config into objects."""
