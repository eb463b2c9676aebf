"""Methods: named points in forget term x retain term x data view x scope, with their papers and defaults."""
