"""Nearest targets: for each document the most similar target documents."""
