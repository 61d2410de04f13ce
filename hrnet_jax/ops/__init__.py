"""The array operations of the layers."""
