"""Recordings: spike times and trials of one subject, and their binned counts."""
