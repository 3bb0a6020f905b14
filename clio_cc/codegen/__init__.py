"""From a Program to the C files of a device project."""
