"""The other verbs of the command line, one file each; `main.py` dispatches to them."""
