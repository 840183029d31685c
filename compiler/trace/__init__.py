"""pangu_compile package."""
