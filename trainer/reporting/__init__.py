"""Figures, tables, pages and the words on them."""
