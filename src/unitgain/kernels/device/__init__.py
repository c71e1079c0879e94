"""Code for GPUs in Triton's language. Importing a module of this package imports Triton."""
