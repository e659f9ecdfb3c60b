"""Finished runs, grouped and shown as tables, plots and a page."""
