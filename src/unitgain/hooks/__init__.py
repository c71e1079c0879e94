"""Post-hoc EMA in other people's training loops: `lightning`, `accelerate`, `transformers`; each needs its package."""
