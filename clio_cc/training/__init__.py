"""Training of progressive slices (the extra `[train]`): what imports PyTorch is here and nowhere else."""
