"""Files that an artifact gets unchanged: they import torch and nothing of ours."""
