"""Figures, tables, pages and their text."""
