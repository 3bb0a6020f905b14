"""Boards: facts, C headers with micro-kernels and project templates."""
