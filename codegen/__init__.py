"""plan -> source text, one package per target."""
