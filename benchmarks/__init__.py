"""Side-by-side speed and memory, one file a question. Ratios in one run; never timed tests."""
