"""Whole tables in one command: plan, statistics and page of ``tools/reproduce.py``."""
