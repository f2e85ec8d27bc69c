"""A run file: TOML in, checked objects out, one clear line for what cannot be meant."""
