"""Where the compiled modules land. Their sources are in `_ext/` at the root; only `hot` looks here."""
