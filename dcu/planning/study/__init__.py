"""The frame of every study: TOML in, a directory out, the same bytes with any number of workers."""
